"""Plots of characters, shell completion, and progress on a terminal."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hedgerow.cli import progress
from hedgerow.cli.__main__ import cli, main
from hedgerow.cli.plots import Axis, bar, curve
from hedgerow.sdk import Context
from hedgerow.sdk.context import SERVICES
from hedgerow.training.v1 import training_pb2

ROOT = Path(__file__).parents[3]
UNIT = Axis(0.0, 1.0, "{:.0f}")


def test_a_diagonal_goes_from_the_lower_left_to_the_upper_right() -> None:
    lines = curve([(0.0, 0.0), (1.0, 1.0)], UNIT, UNIT, width=4, height=2)
    assert lines == ["1 ┤⠀⠀⡠⠊", "0 ┤⡠⠊⠀⠀", "  └────", "   0  1"]


@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=1, max_size=30),
    st.integers(8, 80),
    st.integers(2, 20),
)
def test_a_curve_always_fits_its_frame(points: list[tuple[float, float]], width: int, height: int) -> None:
    x, y = Axis.around([p[0] for p in points]), Axis.around([p[1] for p in points])
    lines = curve(sorted(points), x, y, width=width, height=height)
    assert len(lines) == height + 2
    assert {len(line.partition("┤")[2]) for line in lines[:height]} == {width}
    assert any(set(line.partition("┤")[2]) - {"⠀"} for line in lines[:height])


@given(st.floats(-1, 3), st.integers(1, 60))
def test_a_bar_never_outgrows_its_width(value: float, width: int) -> None:
    drawn = bar(value, 1.0, width=width)
    assert len(drawn) == width
    if value >= 1:
        assert drawn == "█" * width
    if value <= 0:
        assert not drawn.strip()


def test_a_bar_counts_in_eighths() -> None:
    assert bar(0.5, 1.0, width=4) == "██  "
    assert bar(1 / 32, 1.0, width=4) == "▏   "
    assert bar(1.0, 0.0, width=4) == "    "


def test_a_terminal_shows_a_bar_with_epochs_and_a_pipe_shows_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = training_pb2.TrainingRun(
        state=training_pb2.TrainingRun.STATE_TRAINING,
        spec=training_pb2.TrainingSpec(max_epochs=4),
        epochs=[training_pb2.EpochMetrics(epoch=1, validation_auc=0.75)],
    )
    with progress.work("models/m", as_json=False) as told:
        told(run)
    assert capsys.readouterr().err == "models/m: training, epoch 1, validation AUC 0.7500, loss 0.0000\n"
    with progress.work("models/m", as_json=True) as told:
        told(run)
    assert capsys.readouterr().err == ""
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr("hedgerow.cli.progress.Console", lambda **_: terminal)
    with progress.work("models/m", as_json=False) as told:
        told(run)
    assert "25%" in screen.getvalue()
    assert "epoch 1" in screen.getvalue()
    with progress.sending("d.csv", as_json=False) as sent:
        sent(0.5)
    assert "50%" in screen.getvalue()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    told = capsys.readouterr()
    assert "_HEDGEROW_COMPLETE" in told.out
    assert told.err == ""


def test_another_shell_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "csh"]) == 2
    assert "'bash', 'zsh', 'fish'" in capsys.readouterr().err


def complete(*words: str) -> list[str]:
    """Return what the command offers for the last word of a line."""
    shell = ShellComplete(cli, {}, "hedgerow", "_HEDGEROW_COMPLETE")
    return [item.value for item in shell.get_completions(list(words[:-1]), words[-1])]


def test_commands_options_and_people_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Context(tmp_path, dict.fromkeys(SERVICES, "127.0.0.1:1"), "127.0.0.1:1").save(b"")
    for name in ("ana", "ben"):
        (tmp_path / "users" / name).mkdir(parents=True)
    monkeypatch.setenv("HEDGEROW_CONTEXT", str(tmp_path))
    assert complete("train") == ["train", "training-runs", "training-sets"]
    assert complete("training-runs", "") == ["get", "list", "watch"]
    assert "--deployment" in complete("predict", "--")
    assert complete("--as", "") == ["ana", "ben"]
    assert complete("--as", "b") == ["ben"]
    assert complete("completion", "") == ["bash", "zsh", "fish"]
    monkeypatch.setenv("HEDGEROW_CONTEXT", str(tmp_path / "nowhere"))
    assert complete("--as", "") == []


def test_the_command_answers_the_script_of_bash() -> None:
    asked = {"_HEDGEROW_COMPLETE": "bash_complete", "COMP_WORDS": "hedgerow compl", "COMP_CWORD": "1"}
    ran = subprocess.run(
        [sys.executable, "-m", "hedgerow.cli"],
        env=os.environ | asked | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.stdout, ran.stderr) == ("plain,completion\n", "")


def test_bash_reads_its_script() -> None:
    script = subprocess.run(
        [sys.executable, "-m", "hedgerow.cli", "completion", "bash"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    checked = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
