"""Definition files: the resources of an application as YAML documents, in the order they are made.

A document is the `Create…Request` of the API in its JSON form, field for field, with two keys of its own: `kind` says which
request it is, and `purpose` the purpose that the call states. Long work (a training set, a materialization, a training run)
is waited for, so that the next document can use it.
"""

import json
import re
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from google.protobuf.message import Message

from hedgerow.errors import InvalidArgumentError
from hedgerow.features.v1 import features_pb2
from hedgerow.inference.v1 import inference_pb2
from hedgerow.ingestion.v1 import ingestion_pb2
from hedgerow.sdk.connection import Hedgerow
from hedgerow.sdk.facade import Progress
from hedgerow.training.v1 import training_pb2

# Run ids are derived from what is asked for, so that applying a file twice trains once.
_RUN_IDS = uuid.UUID("6a2f0a52-6f0e-4c39-9a8e-3f0f3d3b8f10")

REQUESTS: Mapping[str, type[Message]] = {
    "Dataset": ingestion_pb2.CreateDatasetRequest,
    "FeatureView": features_pb2.CreateFeatureViewRequest,
    "FeatureService": features_pb2.CreateFeatureServiceRequest,
    "TrainingSet": features_pb2.CreateTrainingSetRequest,
    "Materialization": features_pb2.CreateMaterializationRequest,
    "TrainingRun": training_pb2.CreateTrainingRunRequest,
    "Deployment": inference_pb2.CreateDeploymentRequest,
}


# How the JSON form of protobuf words its errors.
_LAYER = re.compile(r"Failed to parse (\w+) field: ")
_UNKNOWN_VALUE = re.compile(r"Invalid enum value (\S+) for enum type (\S+) at (\S+)")
_UNKNOWN_FIELD = re.compile(r'Message type "(\S+)" has no field named "(.*?)" at "(\S+)"')


class _Loader(yaml.SafeLoader):
    """Leaves times as text, which is what the JSON form of a message wants."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


@dataclass(frozen=True)
class Definition:
    """One document: what to create, the request for it, and the purpose to state."""

    kind: str
    request: Any
    purpose: str = ""


def load(path: Path) -> list[Definition]:
    """Reads a definition file.

    Raises:
        InvalidArgumentError: it is not YAML, or a document is not one of the requests; the message says which and why.
    """
    try:
        documents = list(yaml.load_all(path.read_text(encoding="utf-8"), Loader=_Loader))
    except yaml.YAMLError as error:
        raise InvalidArgumentError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    return [
        parse(document, f"{path.name}, document {index}") for index, document in enumerate(documents, 1) if document
    ]


def parse(document: object, where: str) -> Definition:
    """Turns one document into a definition; `where` names it in errors.

    Raises:
        InvalidArgumentError: it has no known kind, or a field that the request does not have or cannot hold.
    """
    if not isinstance(document, dict) or document.get("kind") not in REQUESTS:
        raise InvalidArgumentError(f"{where}: `kind` must be one of {', '.join(REQUESTS)}", fields={"kind": "unknown"})
    fields = {key: value for key, value in document.items() if key not in ("kind", "purpose")}
    kind = document["kind"]
    try:
        request = json_format.ParseDict(fields, REQUESTS[kind]())
    except json_format.ParseError as error:
        raise InvalidArgumentError(f"{where} ({kind}): {_plain(error, REQUESTS[kind])}") from error
    return Definition(kind, request, str(document.get("purpose", "")))


def _plain(error: json_format.ParseError, request: type[Message]) -> str:
    """Returns what the parser found: the field by its path, and what can stand there."""
    text = " ".join(str(error).split()).rstrip(".")
    fields = _LAYER.findall(text)
    text = _LAYER.sub("", text)
    files = request.DESCRIPTOR.file.pool
    name = request.DESCRIPTOR.name
    if match := _UNKNOWN_VALUE.fullmatch(text):
        known = [value.name for value in files.FindEnumTypeByName(match[2]).values if value.number]
        return f"{match[3].removeprefix(f'{name}.')}: {match[1]} is unknown; use one of {', '.join(known)}"
    if match := _UNKNOWN_FIELD.match(text):
        known = [field.name for field in files.FindMessageTypeByName(match[1]).fields]
        path = match[3].removeprefix(name).removeprefix(".")
        return f"{path or 'the document'} has no field {match[2]}; its fields are {', '.join(known)}"
    return f"{'.'.join(fields)}: {text}" if fields else text


def select(definitions: Iterable[Definition], kinds: Sequence[str]) -> list[Definition]:
    """Returns the definitions of some kinds, or all of them when none is named.

    Raises:
        InvalidArgumentError: a kind is unknown.
    """
    unknown = [kind for kind in kinds if kind not in REQUESTS]
    if unknown:
        raise InvalidArgumentError(f"kind {', '.join(unknown)} is unknown; use one of {', '.join(REQUESTS)}")
    return [definition for definition in definitions if not kinds or definition.kind in kinds]


async def apply(hedgerow: Hedgerow, definition: Definition, progress: Progress | None = None) -> Any:
    """Creates what a definition asks for, waits for it where it is long work, and returns the resource."""
    caller = hedgerow.for_purpose(definition.purpose or hedgerow.purpose)
    return await _APPLY[definition.kind](caller, definition.request, progress)


async def _dataset(caller: Hedgerow, request: Any, progress: Progress | None) -> Any:
    return await caller.ingestion.create_dataset(request.dataset_id, request.contract)


async def _feature_view(caller: Hedgerow, request: Any, progress: Progress | None) -> Any:
    return await caller.features.create_feature_view(request.feature_view_id, request.feature_view)


async def _feature_service(caller: Hedgerow, request: Any, progress: Progress | None) -> Any:
    return await caller.features.create_feature_service(request.feature_service_id, request.feature_service)


async def _training_set(caller: Hedgerow, request: Any, progress: Progress | None) -> Any:
    created = await caller.features.create_training_set(request.training_set_id, request.training_set)
    return await caller.features.wait_for_training_set(created.name, progress=progress)


async def _materialization(caller: Hedgerow, request: Any, progress: Progress | None) -> Any:
    as_of = request.as_of_time.ToDatetime() if request.HasField("as_of_time") else None
    created = await caller.features.create_materialization(request.feature_service, as_of)
    return await caller.features.wait_for_materialization(created.name, progress=progress)


async def start_training_run(caller: Hedgerow, request: Any) -> training_pb2.TrainingRun:
    """Starts what a definition of a training run asks for, once however often it is asked for."""
    content = json.dumps(json_format.MessageToDict(request.spec), sort_keys=True)
    request_id = request.request_id or str(uuid.uuid5(_RUN_IDS, content))
    return await caller.training.create_training_run(request.spec, request_id=request_id)


async def _training_run(caller: Hedgerow, request: Any, progress: Progress | None) -> Any:
    created = await start_training_run(caller, request)
    return await caller.training.wait_for_training_run(created.name, progress=progress)


async def _deployment(caller: Hedgerow, request: Any, progress: Progress | None) -> Any:
    return await caller.inference.create_deployment(request.deployment_id, request.model_version)


_APPLY: Mapping[str, Callable[[Hedgerow, Any, Progress | None], Awaitable[Any]]] = {
    "Dataset": _dataset,
    "FeatureView": _feature_view,
    "FeatureService": _feature_service,
    "TrainingSet": _training_set,
    "Materialization": _materialization,
    "TrainingRun": _training_run,
    "Deployment": _deployment,
}
