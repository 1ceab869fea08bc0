"""``python deploy/docker/sizes.py``: how much each service's extra weighs when installed, largest packages first.

It adds up the files, on disk, of every distribution that the extra needs, direct or not, as they are installed in the
environment that runs this (``make`` made one with all extras). So the numbers are those of this platform and of the pinned
versions, without a download; an image adds its base (Python on Debian slim, about 130 MB) and 1 MB of code.
"""

# ruff: noqa: INP001 - a script; nothing imports it but a test
from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

SERVICES = ("secrets", "governance", "ingestion", "features", "training", "inference")
PROJECT = "hedgerow"
PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
LARGEST = 4
MB = 1_000_000


def normal(name: str) -> str:
    """Return the name of a distribution as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(extra: str) -> set[str]:
    """Return the normal names of the distributions that an extra of the project needs, without the project itself.

    Raises:
        importlib.metadata.PackageNotFoundError: one of them is not installed here.
    """
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    seen: set[tuple[str, str]] = set()
    waiting = [(PROJECT, ""), (PROJECT, extra)]
    while waiting:
        one = waiting.pop()
        if one not in seen:
            seen.add(one)
            waiting += _needs(*one, project)
    return {name for name, _ in seen} - {PROJECT}


def _needs(name: str, extra: str, project: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if name == PROJECT:
        texts = project["optional-dependencies"][extra] if extra else project["dependencies"]
    else:
        texts = metadata.requires(name) or ()
    for text in texts:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield normal(requirement.name), ""
            yield from ((normal(requirement.name), other) for other in requirement.extras)


def installed_bytes(name: str) -> int:
    """Return the size of a distribution's files; compiled Python files that its record does not list are not counted."""
    total = 0
    for file in metadata.files(name) or ():
        path = Path(str(file.locate()))
        if path.is_file():
            total += path.stat().st_size
    return total


def report() -> dict[str, dict[str, int]]:
    """Return the bytes of each distribution, by service."""
    known: dict[str, int] = {}
    for service in SERVICES:
        for name in closure(service) - known.keys():
            known[name] = installed_bytes(name)
    return {service: {name: known[name] for name in sorted(closure(service))} for service in SERVICES}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; return the exit code."""
    parser = argparse.ArgumentParser(description="Installed size of each service's extra.")
    parser.add_argument("--json", action="store_true", help="every package, in bytes")
    options = parser.parse_args(arguments)
    sizes = report()
    if options.json:
        print(json.dumps(sizes, indent=1))
        return 0
    print(f"| service | packages | MB | largest |\n|---|---:|---:|---|\n{_rows(sizes)}")
    return 0


def _rows(sizes: dict[str, dict[str, int]]) -> str:
    rows = []
    for service, packages in sizes.items():
        largest = sorted(packages.items(), key=lambda item: -item[1])[:LARGEST]
        what = ", ".join(f"{name} {size / MB:.0f}" for name, size in largest)
        rows.append(f"| {service} | {len(packages)} | {sum(packages.values()) / MB:.0f} | {what} |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
