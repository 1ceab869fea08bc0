"""The guide for newcomers says what the command understands."""

import re
import shlex
from pathlib import Path

import click

from hedgerow.cli.__main__ import cli
from hedgerow.sdk import definitions

_GUIDE = Path(__file__).parents[3] / "docs" / "guide" / "bring-your-own-data.md"


def test_the_definitions_of_the_guide_can_be_read(tmp_path: Path) -> None:
    [text] = re.findall(r"```yaml\n(.*?)```", _GUIDE.read_text(), re.DOTALL)
    path = tmp_path / "customers.yaml"
    path.write_text(text)
    assert {definition.kind for definition in definitions.load(path)} == set(definitions.REQUESTS)


def test_every_command_of_the_guide_exists_with_its_options() -> None:
    blocks = re.findall(r"```sh\n(.*?)```", _GUIDE.read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if "hedgerow " in line]
    assert len(lines) > 15
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
            assert word in command.commands, f"{command.name} has no {word}: {line}"
            return _check(command.commands[word], words, line)
    return None
