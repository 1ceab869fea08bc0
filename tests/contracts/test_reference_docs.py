"""The committed reference is what the contract says today."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    (folder / "gone.md").write_text("the page of a service that is gone")
    subprocess.run([sys.executable, str(REFERENCE / "build.py"), str(folder)], check=True)
    return folder


def test_the_committed_pages_are_those_of_the_contract(written: Path) -> None:
    fresh = {path.name: path.read_text() for path in written.iterdir()}
    committed = {path.name: path.read_text() for path in REFERENCE.glob("*.md")}
    assert committed.keys() == fresh.keys(), "run `make reference`"
    for name, content in fresh.items():
        assert committed[name] == content, f"{name} is out of date: run `make reference`"


def test_every_rpc_has_a_section_and_every_reason_a_row() -> None:
    for proto in (ROOT / "protos").rglob("*.proto"):
        text = proto.read_text()
        for rpc in re.findall(r"^  rpc (\w+)", text, re.MULTILINE):
            assert f"\n### {rpc}\n" in (REFERENCE / f"{proto.stem}.md").read_text()
        for reason in re.findall(r"^  ERROR_REASON_(\w+) = [1-9]", text, re.MULTILINE):
            assert f"| `{reason}` |" in (REFERENCE / "errors.md").read_text()


def test_every_link_leads_somewhere() -> None:
    anchors = {
        page.name: {
            heading.strip("`").lower().replace(".", "").replace(" ", "-")
            for heading in re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
        }
        for page in REFERENCE.glob("*.md")
    }
    for page in REFERENCE.glob("*.md"):
        for file, anchor in re.findall(r"\]\(([\w.]*)(?:#([\w-]+))?\)", page.read_text()):
            target = file or page.name
            assert target in anchors, f"{page.name} links to {target}"
            assert not anchor or anchor in anchors[target], f"{page.name} links to {target}#{anchor}"
