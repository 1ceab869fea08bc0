"""The definitions of the example for one run: the same resources under names of their own, so that a run starts afresh."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from hedgerow.sdk import definitions
from hedgerow.sdk.definitions import Definition

FILE = Path(__file__).parent / "definitions.yaml"
COLLECTIONS = ("datasets", "featureViews", "featureServices", "trainingSets", "models", "deployments")
# The fields that hold an id on its own, beside `…_id`.
_BARE_IDS = ("pseudonym_domain",)


def suffix(run: int) -> str:
    """Returns what the ids of a run end with: nothing for the first, `_2` for the second."""
    return "" if run == 1 else f"_{run}"


def load(run: int) -> list[Definition]:
    """Reads the definitions with every id of the example ending in the run's suffix."""
    return [rename(definition, suffix(run)) for definition in definitions.load(FILE)]


def select(all_: Sequence[Definition], kind: str) -> list[Definition]:
    """Returns the definitions of one kind."""
    return [definition for definition in all_ if definition.kind == kind]


def rename(definition: Definition, ending: str) -> Definition:
    """Returns a definition with `ending` put after each id that the example defines."""
    form = json_format.MessageToDict(definition.request, preserving_proto_field_name=True)
    request = json_format.ParseDict(_renamed("", form, ending), type(definition.request)())
    return Definition(definition.kind, request, definition.purpose)


def _renamed(key: str, value: Any, ending: str) -> Any:
    if isinstance(value, dict):
        return {field: _renamed(field, part, ending) for field, part in value.items()}
    if isinstance(value, list):
        return [_renamed(key, part, ending) for part in value]
    if not isinstance(value, str):
        return value
    if key in _BARE_IDS or (key.endswith("_id") and key != "request_id"):
        return value + ending
    head, slash, rest = value.partition("/")
    if slash and head in COLLECTIONS:
        name, slash, rest = rest.partition("/")
        return f"{head}/{name}{ending}{slash}{rest}"
    if key == "feature":
        view, _, feature = value.partition(".")
        return f"{view}{ending}.{feature}"
    return value
