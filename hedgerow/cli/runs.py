"""`hedgerow training-runs watch` and `hedgerow models show`: what people would rather look at than read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from hedgerow.cli import evidence, output, progress
from hedgerow.cli.resources import full_name
from hedgerow.cli.session import Settings, pass_settings
from hedgerow.errors import NotFoundError
from hedgerow.sdk import Hedgerow


@click.command("watch")
@click.argument("name")
@pass_settings
def watch(settings: Settings, name: str) -> None:
    """Follows a training run to its end, and draws its training curve; the exit code is 1 when it fails."""
    run = full_name("trainingRuns", name)

    async def work(caller: Hedgerow) -> Any:
        with _drawn(run, settings.as_json) as told:
            return await caller.training.wait_for_training_run(run, progress=told)

    ended = settings.run(work)
    if settings.as_json:
        output.print_json(output.as_dict(ended))
        return
    click.echo("\n".join(evidence.training_curve(ended.epochs)))
    click.echo(f"{ended.model_version} is registered; look at it with: hedgerow models show {ended.model_version}")


@contextmanager
def _drawn(run: str, as_json: bool) -> Iterator[Callable[[Any], None]]:
    """Draws the curve again at each epoch on a terminal; elsewhere each change is a line on standard error."""
    console = Console(stderr=True)
    if as_json or not console.is_terminal:
        with progress.work(run, as_json) as told:
            yield told
        return
    with Live(console=console, transient=True, auto_refresh=False) as live:

        def draw(message: Any) -> None:
            lines = [f"{run}: {progress.standing(message)}", *evidence.training_curve(message.epochs)]
            live.update(Group(*(Text(line) for line in lines)), refresh=True)

        yield draw


@click.command("show")
@click.argument("name")
@pass_settings
def show(settings: Settings, name: str) -> None:
    """Shows the evidence of a model version (NAME, or NAME/versions/N or an alias for N): gates, ROC, groups.

    NAME alone means its newest version.
    """
    wanted = full_name("models", name)

    async def work(caller: Hedgerow) -> Any:
        if "/versions/" in wanted:
            return await caller.models.get_model_version(wanted)
        async for newest in caller.models.list_model_versions(wanted):
            return newest
        raise NotFoundError(f"{wanted} has no version yet; train one with: hedgerow train -f FILE")

    version = settings.run(work)
    if settings.as_json:
        output.print_json(output.as_dict(version))
        return
    aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
    click.echo(f"{version.name}{aliases}, from {version.training_run}, for {', '.join(version.purposes)}")
    output.show(evidence.gates(version), ["gate", "outcome", "value", "bound", "unit", "detail"], as_json=False)
    for line in evidence.report(version):
        click.echo(line)
