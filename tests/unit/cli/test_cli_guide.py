"""The guides say what the command understands."""

import re
import shlex
from pathlib import Path

import click
import pytest

from hedgerow.cli.__main__ import cli
from hedgerow.sdk import definitions

_GUIDES = Path(__file__).parents[3] / "docs" / "guide"
_GUIDE = _GUIDES / "bring-your-own-data.md"


def test_the_definitions_of_the_guide_can_be_read(tmp_path: Path) -> None:
    [text] = re.findall(r"```yaml\n(.*?)```", _GUIDE.read_text(), re.DOTALL)
    path = tmp_path / "customers.yaml"
    path.write_text(text)
    assert {definition.kind for definition in definitions.load(path)} == set(definitions.REQUESTS)


@pytest.mark.parametrize(("guide", "least"), [("bring-your-own-data.md", 15), ("sdk.md", 4)])
def test_every_command_of_a_guide_exists_with_its_options(guide: str, least: int) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (_GUIDES / guide).read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if "hedgerow " in line and "echo '" not in line]
    assert len(lines) > least
    for line in lines:
        words = shlex.split(line, comments=True)
        _check(cli, words[words.index("hedgerow") + 1 :], line)


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
