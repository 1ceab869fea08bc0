"""Progress of long work, on standard error: a bar on a terminal, a line for each change elsewhere, nothing for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

from hedgerow.cli.output import text


@contextmanager
def _bar(what: str, as_json: bool) -> Iterator[tuple[Progress, Any]]:
    """Yields a bar without an end, and its task."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(24),
        TaskProgressColumn(),
        TextColumn("{task.fields[stand]}", markup=False),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=as_json or not console.is_terminal, transient=True) as bar:
        yield bar, bar.add_task(what, total=None, stand="")


@contextmanager
def work(what: str, as_json: bool) -> Iterator[Callable[[Any], None]]:
    """Shows how long work stands; yields the callback for each message of a Watch stream."""
    told = ""
    with _bar(what, as_json) as (bar, task):

        def update(message: Any) -> None:
            nonlocal told
            stand = standing(message)
            done, total = _share(message)
            bar.update(task, completed=done, total=total, stand=stand)
            if bar.disable and not as_json and stand != told:
                click.echo(f"{what}: {stand}", err=True)
            told = stand

        yield update


@contextmanager
def sending(what: str, as_json: bool) -> Iterator[Callable[[float], None]]:
    """Shows how much is sent; yields the callback for the share, from 0 to 1."""
    with _bar(what, as_json) as (bar, task):
        yield lambda share: bar.update(task, completed=share, total=1.0, stand="sent")


def _share(message: Any) -> tuple[int, int | None]:
    """Returns how much is done of how much; for a training run, epochs, of which it may need fewer."""
    epochs = getattr(message, "epochs", None)
    most = getattr(getattr(message, "spec", None), "max_epochs", 0)
    return (len(epochs), most) if epochs and most else (0, None)


def standing(message: Any) -> str:
    """Returns how a resource stands, in words."""
    state = text(message.DESCRIPTOR.fields_by_name["state"].enum_type.values_by_number[message.state].name)
    epochs = getattr(message, "epochs", ())
    if epochs:
        last = epochs[-1]
        return f"{state}, epoch {last.epoch}, validation AUC {last.validation_auc:.4f}, loss {last.validation_loss:.4f}"
    count = getattr(message, "row_count", 0) or getattr(message, "entity_count", 0)
    return f"{state}, {count:,} rows" if count else state
