"""The capacity page: replicas for a load, and a warning when the basis is weak."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.capacity import render, replicas
from simulator.basis import RECORDED, is_sound, load_basis

POINTS = [
    {"offered": 100.0, "goodput": 100.0},
    {"offered": 400.0, "goodput": 190.0},
    {"offered": 300.0, "goodput": 200.0},
]


def suite(lag: float, *void: str) -> dict[str, object]:
    return {
        "checks": [
            {"name": "generator_lag_ms", "value": lag, "unit": "ms", "op": "<=", "goal": 250.0},
            {"name": "void_reasons", "value": len(void), "unit": "reasons", "op": "==", "goal": 0},
        ],
        "void": list(void),
        "sweeps": {
            name: {"saturation_per_s": 200.0, "rows_per_call": 8, "deadline_s": 1.0, "points": POINTS}
            for name in ("predictions", "features", "ingest")
        },
        "start_seconds": {"inference": 3.0, "features": 4.0},
        "soak": {"rss_mib": {"inference": 180.0}},
    }


@pytest.mark.parametrize(("load", "count"), [(1, 2), (120, 2), (240, 2), (241, 3), (1200, 10), (1201, 11)])
def test_replicas_leave_room_and_are_never_single(load: float, count: int) -> None:
    assert replicas(load, 200.0) == count


def test_the_page_names_its_basis_and_its_weakness() -> None:
    assert "| 1,000 | 9 | 9 | 9 |" in render(suite(10.0), None)
    assert "rough" not in render(suite(10.0), None)
    assert "`generator_lag_ms` 900.00 (goal <= 250)" in render(suite(900.0), None)


def test_the_simulator_takes_no_figures_from_a_late_generator(tmp_path: Path) -> None:
    file = tmp_path / "suite.json"
    file.write_text(json.dumps(suite(10.0)))
    assert load_basis("inference", file).calls_per_second == 200.0
    recorded = json.loads(RECORDED.read_text())["services"]["inference"]["calls_per_second"]
    for unsound in (suite(900.0), suite(10.0, "the soak: no call was made")):
        file.write_text(json.dumps(unsound))
        assert load_basis("inference", file).calls_per_second == recorded
    assert not is_sound({})


def command(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "loadtests.capacity", "--suite", str(folder / "suite.json"),
         "--load", str(folder / "load.json"), "--page", str(folder / "page.md")],
        capture_output=True, text=True, timeout=60, check=False, cwd=Path(__file__).parents[3],
    )  # fmt: skip


def test_the_command_says_what_is_missing(tmp_path: Path) -> None:
    result = command(tmp_path)
    assert result.returncode == 2
    assert "make bench-suite" in result.stderr


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (suite(900.0), "ran late"),
        (suite(10.0, "the soak: a generator ended early"), "the soak: a generator ended early"),
        ({"checks": []}, "make bench-suite"),
    ],
)
def test_no_page_is_made_of_a_void_run(tmp_path: Path, content: dict[str, object], says: str) -> None:
    (tmp_path / "suite.json").write_text(json.dumps(content))
    result = command(tmp_path)
    assert result.returncode == 3
    assert says in result.stderr
    assert not (tmp_path / "page.md").exists()


def test_a_page_is_made_of_a_sound_run(tmp_path: Path) -> None:
    (tmp_path / "suite.json").write_text(json.dumps(suite(10.0)))
    assert command(tmp_path).returncode == 0
    assert "| 1,000 | 9 | 9 | 9 |" in (tmp_path / "page.md").read_text()
