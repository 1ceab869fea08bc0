"""Writes the reference of the API, one page for each service, from the comments of the contract in `protos/`.

    python docs/reference/build.py [FOLDER]

The pages are committed; a test holds them to the contract, and `make reference` writes them anew.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    MethodOptions,
    ServiceDescriptorProto,
)

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).resolve().parent
NOTE = "<!-- Written by docs/reference/build.py from protos/; `make reference` writes it anew. -->"
REASONS = "hedgerow.errors.v1.ErrorReason"
_SERVICES, _MESSAGES, _ENUMS = 6, 4, 5
_WORD = re.compile(r"\b[A-Z][A-Z_]+\b")
_SAFE = {
    MethodOptions.NO_SIDE_EFFECTS: "yes: it changes nothing",
    MethodOptions.IDEMPOTENT: "yes: a repeat has no further effect",
}


@dataclass
class Contract:
    """All files of the contract.

    Attributes:
        files: with source information, by package.
        comments: by full name of what they stand above.
        messages: by full name, nested ones included.
        enums: likewise.
    """

    files: dict[str, FileDescriptorProto] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)
    messages: dict[str, DescriptorProto] = field(default_factory=dict)
    enums: dict[str, EnumDescriptorProto] = field(default_factory=dict)

    def add(self, file: FileDescriptorProto) -> None:
        """Takes in a file."""
        self.files[file.package] = file
        by_path = {tuple(place.path): _text(place.leading_comments) for place in file.source_code_info.location}
        for path, name in _named(file):
            self.comments[name] = by_path.get(path, "")
        self.comments[file.package] = by_path.get((2,), "")
        for message in file.message_type:
            self._add_message(message, file.package)
        for enum in file.enum_type:
            self.enums[f"{file.package}.{enum.name}"] = enum

    def _add_message(self, message: DescriptorProto, scope: str) -> None:
        name = f"{scope}.{message.name}"
        self.messages[name] = message
        for enum in message.enum_type:
            self.enums[f"{name}.{enum.name}"] = enum
        for nested in message.nested_type:
            self._add_message(nested, name)

    def reasons(self) -> dict[str, list[tuple[str, str]]]:
        """Returns the documented reasons, with what they mean, by gRPC code."""
        found: dict[str, list[tuple[str, str]]] = {}
        for value in self.enums[REASONS].value:
            code, _, meaning = self.comments[f"{REASONS}.{value.name}"].partition(". ")
            if value.number:
                found.setdefault(code, []).append((value.name.removeprefix("ERROR_REASON_"), meaning))
        return found


def _text(comment: str) -> str:
    return " ".join(comment.split())


def _named(file: FileDescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    """Yields everything with a comment of its own, with its path in the descriptor."""
    for at, service in enumerate(file.service):
        name = f"{file.package}.{service.name}"
        yield (_SERVICES, at), name
        for index, method in enumerate(service.method):
            yield (_SERVICES, at, 2, index), f"{name}.{method.name}"
    for at, message in enumerate(file.message_type):
        yield from _of_message(message, (_MESSAGES, at), file.package)
    for at, enum in enumerate(file.enum_type):
        yield from _of_enum(enum, (_ENUMS, at), file.package)


def _of_message(message: DescriptorProto, path: tuple[int, ...], scope: str) -> Iterator[tuple[tuple[int, ...], str]]:
    name = f"{scope}.{message.name}"
    yield path, name
    for index, one in enumerate(message.field):
        yield (*path, 2, index), f"{name}.{one.name}"
    for index, nested in enumerate(message.nested_type):
        yield from _of_message(nested, (*path, 3, index), name)
    for index, enum in enumerate(message.enum_type):
        yield from _of_enum(enum, (*path, 4, index), name)


def _of_enum(enum: EnumDescriptorProto, path: tuple[int, ...], scope: str) -> Iterator[tuple[tuple[int, ...], str]]:
    name = f"{scope}.{enum.name}"
    yield path, name
    for index, value in enumerate(enum.value):
        yield (*path, 2, index), f"{name}.{value.name}"


def read_contract(protos: Path) -> Contract:
    """Compiles the contract with its comments."""
    names = sorted(str(path.relative_to(protos)) for path in protos.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "contract.binpb"
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{protos}", "--include_source_info"]
        subprocess.run([*command, f"--descriptor_set_out={out}", *names], check=True)
        files = FileDescriptorSet.FromString(out.read_bytes())
    contract = Contract()
    for file in files.file:
        contract.add(file)
    return contract


def page(contract: Contract, file: FileDescriptorProto) -> str:
    """Returns the page of one package."""
    area = file.package.split(".")[1]
    lines = [NOTE, f"# `{file.package}`", "", contract.comments.get(file.package, ""), ""]
    lines += ["Every RPC may also fail with what [concerns all of them](errors.md#every-rpc).", ""]
    for service in file.service:
        lines += _service(contract, file.package, service)
    lines += ["## Messages", ""]
    for name, message in contract.messages.items():
        if name.startswith(f"{file.package}.") and not message.options.map_entry:
            lines += _message(contract, name, message, area)
    for name, enum in contract.enums.items():
        if name.startswith(f"{file.package}."):
            lines += _enum(contract, name, enum)
    return "\n".join(lines).rstrip() + "\n"


def _service(contract: Contract, package: str, service: ServiceDescriptorProto) -> list[str]:
    area = package.split(".")[1]
    name = f"{package}.{service.name}"
    lines = [f"## {service.name}", "", contract.comments[name], ""]
    for method in service.method:
        lines += _method(contract, f"{name}.{method.name}", method, area)
    return lines


def _method(contract: Contract, name: str, method: MethodDescriptorProto, area: str) -> list[str]:
    request = ("stream of " if method.client_streaming else "") + _link(method.input_type, area)
    response = ("stream of " if method.server_streaming else "") + _link(method.output_type, area)
    comment = contract.comments[name]
    lines = [f"### {method.name}", "", comment, "", "| | |", "|---|---|", f"| request | {request} |"]
    lines += [f"| response | {response} |", f"| safe to repeat | {_safe(contract, method)} |"]
    codes = contract.reasons()
    reasons = {reason: code for code, known in codes.items() for reason, _ in known}
    named = [word for word in dict.fromkeys(_WORD.findall(comment)) if word in codes or word in reasons]
    if named:
        links = (f"[`{word}`](errors.md#{reasons.get(word, word).lower()})" for word in named)
        lines.append(f"| fails with | {', '.join(links)} |")
    return [*lines, ""]


def _safe(contract: Contract, method: MethodDescriptorProto) -> str:
    if method.options.idempotency_level in _SAFE:
        return _SAFE[method.options.idempotency_level]
    fields = {one.name for one in contract.messages[method.input_type.lstrip(".")].field}
    return "with the same `request_id`" if "request_id" in fields else "no"


def _message(contract: Contract, name: str, message: DescriptorProto, area: str) -> list[str]:
    short = _short(name)
    lines = [f"### {short}", "", contract.comments[name], ""]
    if not message.field:
        return [*lines, "No fields.", ""]
    lines += ["| field | type | |", "|---|---|---|"]
    for one in message.field:
        told = contract.comments[f"{name}.{one.name}"].replace("|", "\\|")
        lines.append(f"| `{one.name}` | {_type(contract, one, area)} | {told} |")
    return [*lines, ""]


def _enum(contract: Contract, name: str, enum: EnumDescriptorProto) -> list[str]:
    lines = [f"### {_short(name)}", "", contract.comments[name], "", "| value | |", "|---|---|"]
    return [*lines, *(f"| `{value.name}` | {contract.comments[f'{name}.{value.name}']} |" for value in enum.value), ""]


def _short(name: str) -> str:
    """Returns `TrainingRun.State` for `hedgerow.training.v1.TrainingRun.State`."""
    return name.lstrip(".").split(".v1.", 1)[1]


def _link(name: str, area: str) -> str:
    """Returns a link to a type of the contract, or the name of a well-known one."""
    name = name.lstrip(".")
    if not name.startswith("hedgerow."):
        return f"`{name}`"
    owner = name.split(".")[1]
    target = f"#{_short(name).lower().replace('.', '')}"
    return f"[`{_short(name)}`]({target if owner == area else f'{owner}.md{target}'})"


def _type(contract: Contract, one: FieldDescriptorProto, area: str) -> str:
    if one.type not in (FieldDescriptorProto.TYPE_MESSAGE, FieldDescriptorProto.TYPE_ENUM):
        text = f"`{FieldDescriptorProto.Type.Name(one.type).removeprefix('TYPE_').lower()}`"
    else:
        entry = contract.messages.get(one.type_name.lstrip("."))
        if entry is not None and entry.options.map_entry:
            return f"map of {_type(contract, entry.field[0], area)} to {_type(contract, entry.field[1], area)}"
        text = _link(one.type_name, area)
    repeated = one.label == FieldDescriptorProto.LABEL_REPEATED
    return f"list of {text}" if repeated else f"{text}, optional" if one.proto3_optional else text


EVERY_RPC = """## Every RPC

Before a handler runs, any RPC may be refused with `UNAUTHENTICATED`, `PERMISSION_DENIED`, `RESOURCE_EXHAUSTED`,
`UNAVAILABLE`, or with `INVALID_ARGUMENT` for a missing deadline or a malformed message; later it may end with
`DEADLINE_EXCEEDED`, `CANCELLED` or `INTERNAL`."""


def errors(contract: Contract) -> str:
    """Returns the page of error reasons, by code."""
    lines = [NOTE, "# Errors", ""]
    lines += [
        "Every error is a `google.rpc.Status` with an `ErrorInfo` whose domain is `hedgerow.dev`, and whose reason is",
        "one of these. `BadRequest` names the fields at fault, `RetryInfo` says when to try again. The SDKs raise one",
        "class for each code.",
        "",
        EVERY_RPC,
        "",
    ]
    for code, reasons in contract.reasons().items():
        lines += [
            f"## {code}",
            "",
            "| reason | |",
            "|---|---|",
            *(f"| `{name}` | {told} |" for name, told in reasons),
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"


def index(contract: Contract, pages: Sequence[str]) -> str:
    """Returns the first page."""
    lines = [NOTE, "# Reference", "", "The contract, from the comments in `protos/`.", "", "| page | |", "|---|---|"]
    lines += [f"| [{area}]({area}.md) | {contract.comments[f'hedgerow.{area}.v1']} |" for area in pages]
    return "\n".join([*lines, "| [errors](errors.md) | Why a call fails. |"]) + "\n"


def write(protos: Path, folder: Path) -> None:
    """Writes all pages, and removes pages of services that are gone."""
    contract = read_contract(protos)
    services = {name.split(".")[1]: file for name, file in sorted(contract.files.items()) if file.service}
    pages = {f"{area}.md": page(contract, file) for area, file in services.items()}
    pages |= {"errors.md": errors(contract), "README.md": index(contract, list(services))}
    for stale in {path.name for path in folder.glob("*.md")} - pages.keys():
        (folder / stale).unlink()
    for name, content in pages.items():
        (folder / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    write(ROOT / "protos", Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
