"""Answers for people (tables) and for programs (JSON)."""

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click
from google.protobuf import json_format
from google.protobuf.message import Message
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hedgerow.errors import HedgerowError

_PIPE_WIDTH = 240
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_SPIFFE = re.compile(r"^spiffe://[^/]+/")


def as_dict(message: Message) -> dict[str, Any]:
    """Returns a message in its JSON form, with the field names of the contract and unset fields in it."""
    form: dict[str, Any] = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return form


def show(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], as_json: bool) -> None:
    """Prints rows: as JSON with all they hold, or as a table of some columns."""
    if as_json:
        print_json(list(rows))
        return
    if not rows:
        click.echo("none")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(escape(text(row.get(column, ""))) for column in columns))
    # What goes into a file or a pipe is not folded to a screen that is not there.
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)


def show_one(form: Mapping[str, Any], as_json: bool, skip: Sequence[str] = ()) -> None:
    """Prints one resource, field by field, without the fields in `skip` unless as JSON."""
    if as_json:
        print_json(form)
        return
    _show_fields({field: value for field, value in form.items() if field not in skip}, indent=0)


def _show_fields(form: Mapping[str, Any], indent: int) -> None:
    """Prints fields that are set, one a line; what has fields of its own goes further in."""
    shown = {field: value for field, value in form.items() if not _is_unset(value)}
    width = max((len(field) for field in shown), default=0)
    for field, value in shown.items():
        name = " " * indent + field.replace("_", " ").ljust(width)
        if isinstance(value, dict):
            click.echo(name.rstrip())
            _show_fields(value, indent + 2)
        elif isinstance(value, list) and isinstance(value[0], dict):
            click.echo(name.rstrip())
            for item in value:
                parts = (f"{key.replace('_', ' ')} {text(part)}" for key, part in item.items() if not _is_unset(part))
                click.echo(" " * (indent + 2) + ", ".join(parts))
        else:
            click.echo(f"{name}  {text(value)}")


def _is_unset(value: Any) -> bool:
    return value is None or value is False or value in ("", [], {})


def print_json(value: Any) -> None:
    """Prints a value as JSON."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def error_json(error: HedgerowError, message: str) -> str:
    """Returns an error as one line of JSON, with what a program may decide by."""
    facts = {"code": error.code_name, "reason": error.reason, "message": message, "fields": dict(error.fields)}
    return json.dumps({"error": facts | {"metadata": dict(error.metadata)}}, ensure_ascii=False)


def failure_json(code: str, message: str) -> str:
    """Returns what went wrong before any call, in the form of an error; it has no reason, as that is for services."""
    facts = {"code": code, "reason": "", "message": message, "fields": {}, "metadata": {}}
    return json.dumps({"error": facts}, ensure_ascii=False)


def text(value: Any) -> str:
    """Returns a value for people: lists joined, states without their prefix, numbers short."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "none" if math.isnan(value) else f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(text(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key}={text(part)}" for key, part in value.items())
    if isinstance(value, str):
        return _word(value)
    return str(value)


def _word(value: str) -> str:
    """Returns text without what a person can do without: enum prefixes, the trust domain, fractions of a second."""
    for prefix in ("STATE_", "STATUS_", "OUTCOME_", "TYPE_"):
        if value.startswith(prefix):
            return value.removeprefix(prefix).lower().replace("_", " ")
    if _TIME.fullmatch(value):
        return value[:19].replace("T", " ")
    return _SPIFFE.sub("", value)
