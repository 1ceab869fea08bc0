"""The documentation leads where it says: relative links, their anchors, and the `make` targets it names."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^(```|~~~).*?^\1$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:")
MAKE = re.compile(r"(?<![\w-])make ((?:-\w+ )*)([a-z][a-z-]*)")


def pages() -> list[str]:
    """Return every page that git knows or would take."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return sorted(name for name in done.stdout.splitlines() if (ROOT / name).is_file())


PAGES = pages()
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def links(text: str) -> list[str]:
    return [target for target in LINK.findall(CODE.sub("", FENCE.sub("", text))) if not ELSEWHERE.match(target)]


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in HEADING.findall(FENCE.sub("", text)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        base = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        anchor, count = base, 0
        while anchor in found:
            count += 1
            anchor = f"{base}-{count}"
        found.add(anchor)
    return found


def fault(page: str, link: str) -> str:
    """Return what is wrong with a link; empty when it leads somewhere."""
    path, _, anchor = unquote(link).partition("#")
    target = (ROOT / page).parent / path if path else ROOT / page
    if path.startswith("/") or not target.resolve().is_relative_to(ROOT):
        return f"{link} leads out of the repository"
    if not target.exists():
        return f"{link} leads nowhere"
    if anchor and target.suffix == ".md" and anchor not in anchors(target.read_text()):
        return f"{link}: there is no such heading"
    return ""


def commands(text: str) -> list[str]:
    """Return what a page calls as code."""
    return [match[0] for match in FENCE.finditer(text)] + CODE.findall(FENCE.sub("", text))


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_somewhere(page: str) -> None:
    assert [told for link in links((ROOT / page).read_text()) if (told := fault(page, link))] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_that_a_page_names_exists(page: str) -> None:
    named = {target for code in commands((ROOT / page).read_text()) for _, target in MAKE.findall(code)}
    assert named - TARGETS == set()


def test_every_guide_and_runbook_is_linked_from_its_index() -> None:
    for folder, index in (("docs/guide", "docs/README.md"), ("docs/runbooks", "docs/runbooks/README.md")):
        place = (ROOT / index).parent
        linked = {(place / link.partition("#")[0]).resolve() for link in links((ROOT / index).read_text())}
        assert {file for file in (ROOT / folder).glob("*.md") if file.name != "README.md"} <= linked


def test_the_checker_sees_what_is_wrong() -> None:
    text = (
        "# A b\n[x](no.md) [y](#a-b) [z](#c) `[not](a-link.md)`\n```\n[nor](this.md)\n```\n[out](https://a.example/b)\n"
    )
    assert links(text) == ["no.md", "#a-b", "#c"]
    assert anchors("# A `b`, c!\n## Twice\n## Twice\n") == {"a-b-c", "twice", "twice-1"}
    assert fault("README.md", "no.md") == "no.md leads nowhere"
    assert fault("README.md", "../x.md") == "../x.md leads out of the repository"
    assert fault("README.md", "ARCHITECTURE.md#nowhere") == "ARCHITECTURE.md#nowhere: there is no such heading"
    assert commands("`make up` and\n```sh\nmake down\n```\n") == ["```sh\nmake down\n```", "`make up`"]
