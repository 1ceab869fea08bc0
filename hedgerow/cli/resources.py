"""`hedgerow <resource> list` and `hedgerow <resource> get NAME` for every kind of resource."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from hedgerow.cli import output
from hedgerow.cli.session import Settings, pass_settings
from hedgerow.sdk import Hedgerow


@dataclass(frozen=True)
class Resource:
    """One kind of resource on the command line.

    Attributes:
        command: the command, such as `feature-views`.
        collection: what its names start with, such as `featureViews`.
        columns: what a listing shows.
        get: returns one by name.
        items: yields all; None where the API does not list them.
        skip: fields that only JSON shows.
    """

    command: str
    collection: str
    columns: Sequence[str]
    get: Callable[[Hedgerow, str], Awaitable[Any]] | None
    items: Callable[[Hedgerow], AsyncIterator[Any]] | None
    skip: Sequence[str] = field(default=())


RESOURCES = (
    Resource(
        "datasets",
        "datasets",
        ["name", "version", "row_count", "quarantined_row_count"],
        lambda caller, name: caller.ingestion.get_dataset(name),
        lambda caller: caller.ingestion.list_datasets(),
    ),
    Resource(
        "feature-views",
        "featureViews",
        ["name", "dataset", "entity_column", "purposes", "tags"],
        lambda caller, name: caller.features.get_feature_view(name),
        lambda caller: caller.features.list_feature_views(),
    ),
    Resource(
        "feature-services",
        "featureServices",
        ["name", "feature_views", "purposes"],
        lambda caller, name: caller.features.get_feature_service(name),
        lambda caller: caller.features.list_feature_services(),
    ),
    Resource(
        "training-sets",
        "trainingSets",
        [],
        lambda caller, name: caller.features.get_training_set(name),
        None,
    ),
    Resource(
        "training-runs",
        "trainingRuns",
        ["name", "state", "model_version", "error"],
        lambda caller, name: caller.training.get_training_run(name),
        lambda caller: caller.training.list_training_runs(),
    ),
    Resource(
        "models",
        "models",
        ["name", "latest_version", "aliases"],
        None,
        lambda caller: caller.models.list_models(),
    ),
    Resource(
        "model-versions",
        "models",
        [],
        lambda caller, name: caller.models.get_model_version(name),
        None,
        skip=["evaluation_json", "manifest", "signature", "wrapped_key", "feature_descriptions"],
    ),
    Resource(
        "deployments",
        "deployments",
        ["name", "model_version", "state", "purposes"],
        lambda caller, name: caller.inference.get_deployment(name),
        lambda caller: caller.inference.list_deployments(),
    ),
    Resource(
        "erasure-requests",
        "erasureRequests",
        ["name", "state", "create_time", "end_time"],
        lambda caller, name: caller.governance.get_erasure_request(name),
        lambda caller: caller.governance.list_erasure_requests(),
        skip=["receipt", "signature"],
    ),
)


def full_name(collection: str, name: str) -> str:
    """Returns `collection/name`, whether the user wrote the collection or not."""
    return name if name.startswith(f"{collection}/") else f"{collection}/{name}"


def _group(resource: Resource) -> click.Group:
    words = resource.command.replace("-", " ")
    group = click.Group(resource.command, help=f"Shows {words}.")
    if resource.items is not None:
        group.add_command(_list_command(resource, resource.items, words))
    if resource.get is not None:
        group.add_command(_get_command(resource, resource.get, words))
    return group


def _list_command(resource: Resource, items: Callable[[Hedgerow], AsyncIterator[Any]], words: str) -> click.Command:
    @click.command("list", help=f"Lists {words}.")
    @click.option("--limit", type=click.IntRange(1), default=1000, show_default=True, help="At most so many.")
    @pass_settings
    def listing(settings: Settings, limit: int) -> None:
        async def gather(caller: Hedgerow) -> list[dict[str, Any]]:
            return await take(items(caller), limit)

        output.show(settings.run(gather), resource.columns, settings.as_json)

    return listing


def _get_command(resource: Resource, get: Callable[[Hedgerow, str], Awaitable[Any]], words: str) -> click.Command:
    @click.command("get", help=f"Shows one of the {words} by name.")
    @click.argument("name")
    @pass_settings
    def getting(settings: Settings, name: str) -> None:
        found = settings.run(lambda caller: get(caller, full_name(resource.collection, name)))
        output.show_one(output.as_dict(found), settings.as_json, resource.skip)

    return getting


async def take(items: AsyncIterator[Any], limit: int) -> list[dict[str, Any]]:
    """Returns at most `limit` messages in their JSON form."""
    found: list[dict[str, Any]] = []
    async for item in items:
        found.append(output.as_dict(item))
        if len(found) == limit:
            break
    return found


GROUPS = tuple(_group(resource) for resource in RESOURCES)
BY_COMMAND = {group.name: group for group in GROUPS}
