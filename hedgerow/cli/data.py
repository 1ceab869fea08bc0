"""`hedgerow apply` and `hedgerow ingest`: definitions and records."""

import asyncio
from pathlib import Path
from typing import Any

import click

from hedgerow.cli import output, progress
from hedgerow.cli.resources import full_name, take
from hedgerow.cli.session import Settings, pass_settings
from hedgerow.sdk import Hedgerow, definitions, records
from hedgerow.sdk.definitions import Definition

_SHOWN_QUARANTINED = 5


@click.command()
@click.option(
    "-f", "--file", "path", required=True, type=click.Path(exists=True, dir_okay=False), help="Definition file."
)
@click.option("--kind", "kinds", multiple=True, metavar="KIND", help="Only documents of this kind; may be repeated.")
@pass_settings
def apply(settings: Settings, path: str, kinds: tuple[str, ...]) -> None:
    """Creates what a definition file asks for, in its order, and waits for long work.

    A KIND is one of Dataset, FeatureView, FeatureService, TrainingSet, Materialization, TrainingRun and Deployment.
    """
    chosen = definitions.select(definitions.load(Path(path)), kinds)

    async def work(caller: Hedgerow) -> list[dict[str, Any]]:
        return [await _apply_one(caller, definition, settings.as_json) for definition in chosen]

    applied = settings.run(work)
    if settings.as_json:
        output.print_json(applied)


async def _apply_one(caller: Hedgerow, definition: Definition, as_json: bool) -> dict[str, Any]:
    with progress.work(definition.kind, as_json) as told:
        resource = await definitions.apply(caller, definition, told)
    if not as_json:
        click.echo(f"{definition.kind:16} {resource.name}")
    return output.as_dict(resource)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--dataset", required=True, help="The dataset to append to.")
@click.option("--request-id", default="", help="A UUID that makes a repeat safe; made up when not given.")
@click.option("--timezone", default="", help="Zone of times that name none, such as UTC or Europe/Vienna.")
@pass_settings
def ingest(settings: Settings, file: str, dataset: str, request_id: str, timezone: str) -> None:
    """Appends the rows of FILE (.csv, .csv.gz, .parquet or .arrow) to a dataset as one version.

    Rows that break the contract go to quarantine with the reason; the others are kept.
    """
    name = full_name("datasets", dataset)

    async def work(caller: Hedgerow) -> tuple[Any, list[dict[str, Any]]]:
        contract = (await caller.ingestion.get_dataset(name)).contract
        table = await asyncio.to_thread(records.read, Path(file), contract, timezone)
        with progress.sending(Path(file).name, settings.as_json) as told:
            response = await caller.ingestion.append(name, table, request_id=request_id, progress=told)
        if not response.quarantined_row_count:
            return response, []
        return response, await take(caller.ingestion.list_quarantined_records(name), _SHOWN_QUARANTINED)

    response, quarantined = settings.run(work)
    if settings.as_json:
        output.print_json(output.as_dict(response) | {"quarantined": quarantined})
        return
    click.echo(
        f"{response.row_count:,} rows in version {response.version} of {name}, "
        f"{response.quarantined_row_count:,} in quarantine{', such as' if quarantined else ''}"
    )
    for row in quarantined:
        # People count rows from 1; the API and JSON from 0.
        click.echo(f"  row {int(row['row_index']) + 1:,}: {row['reason']}")
