"""What a person is told while the suite starts."""

from pathlib import Path

from suite.__main__ import _progress
from suite.config import SuiteConfig


def test_a_context_that_cannot_be_written_is_said_and_ends_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    # There is no folder to write into, nor a CA to name.
    _progress("secrets      serving", said.append, SuiteConfig(tmp_path / "gone"), 0.0)
    assert said[0].startswith("the command line will not find the suite: context.json cannot be written (")
    assert said[1:] == ["secrets      serving"]
