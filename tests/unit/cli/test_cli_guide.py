"""What the documents tell people to type exists: commands with their options, targets of make, modules of Python."""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from hedgerow.cli.__main__ import cli
from hedgerow.sdk import definitions

_ROOT = Path(__file__).parents[3]
_GUIDE = _ROOT / "docs" / "guide" / "bring-your-own-data.md"
_DOCUMENTS = [
    _ROOT / "README.md",
    *sorted((_ROOT / "docs" / "guide").glob("*.md")),
    *sorted((_ROOT / "docs" / "runbooks").glob("*.md")),
]
_BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
_HERE_DOCUMENT = re.compile(r"<<'(\w+)'\n.*?\n\1\n", re.DOTALL)
_TARGETS = set(re.findall(r"^([\w-]+):", (_ROOT / "Makefile").read_text(), re.MULTILINE))


def _name(document: Path) -> str:
    return str(document.relative_to(_ROOT))


def _lines(text: str) -> Iterator[str]:
    """Yields the command lines of a document: of its shell blocks, behind each prompt, and in the text."""
    for language, block in _BLOCK.findall(text):
        shown = _HERE_DOCUMENT.sub("\n", block).replace("\\\n", " ").splitlines()
        if language == "sh":
            yield from shown
        elif language in ("", "console"):
            yield from (line.removeprefix("$ ") for line in shown if line.startswith("$ "))
    yield from re.findall(r"`(hedgerow [^`]+)`", _BLOCK.sub("", text))


def _commands(text: str) -> Iterator[list[str]]:
    """Yields the words of each command, those before and behind a pipe or another operator apart."""
    for line in _lines(text):
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("();<>|&"):
                if words:
                    yield words
                words = []
            elif words or not re.fullmatch(r"export|\w+=.*", word):
                words.append(word)


def test_the_definitions_of_the_guide_can_be_read(tmp_path: Path) -> None:
    [text] = re.findall(r"```yaml\n(.*?)```", _GUIDE.read_text(), re.DOTALL)
    path = tmp_path / "customers.yaml"
    path.write_text(text)
    assert {definition.kind for definition in definitions.load(path)} == set(definitions.REQUESTS)


@pytest.mark.parametrize("document", _DOCUMENTS, ids=_name)
def test_every_command_of_a_document_exists_with_its_options(document: Path) -> None:
    for words in _commands(document.read_text()):
        line = shlex.join(words)
        match words:
            case ["hedgerow", *rest]:
                _check(cli, rest, line)
            case ["make", *rest]:
                targets = {word for word in rest if "=" not in word and not word.startswith("-")}
                assert targets <= _TARGETS, line
            case ["python" | "python3", "-m", module, *_]:
                assert importlib.util.find_spec(module), line


def test_the_commands_are_found() -> None:
    found = {
        _name(document): [words for words in _commands(document.read_text()) if words[0] in ("hedgerow", "make")]
        for document in _DOCUMENTS
    }
    assert len(found["README.md"]) >= 9
    assert len(found["docs/guide/bring-your-own-data.md"]) >= 20
    piped = shlex.split("hedgerow --as pia erase - --domain customers --yes")
    assert piped in found["docs/guide/bring-your-own-data.md"]
    assert shlex.split("hedgerow --as pia policies get") in found["docs/runbooks/DenialsUnusual.md"]


def _check(command: click.Command, words: list[str], line: str) -> None:
    """Follows the words of a command line through the groups and checks each option."""
    known = {name: option for option in command.params for name in option.opts}
    while words:
        word = words.pop(0)
        if word.startswith("--") or (word.startswith("-") and len(word) == 2):
            assert word in known, f"{command.name} has no {word}: {line}"
            if not getattr(known[word], "is_flag", False):
                words.pop(0)
        elif isinstance(command, click.Group):
            found = command.get_command(click.Context(command), word)
            assert found is not None, f"{command.name} has no {word}: {line}"
            return _check(found, words, line)
    return None
