"""The supervisor with stub services: order, crashes, and no process left behind whatever happens to it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from suite.run_file import RunFolder

ROOT = Path(__file__).resolve().parents[3]
PATIENCE = 30.0


class Stubs:
    """A supervisor process and what it leaves in its folder."""

    def __init__(self, folder: Path, *units: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.suite.stub_suite", str(folder), *units],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def state(self) -> dict[str, Any]:
        with contextlib.suppress(FileNotFoundError):
            return json.loads((self.folder / "run" / "suite.json").read_text())  # type: ignore[no-any-return]
        return {"phase": "", "services": {}}

    def service(self, name: str) -> dict[str, Any]:
        return self.state()["services"].get(name, {"phase": "", "pid": 0, "restarts": 0})  # type: ignore[no-any-return]

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"never: {what}; {self.state()}"
            time.sleep(0.02)

    def until_phase(self, phase: str) -> None:
        self.until(lambda: self.state()["phase"] == phase, phase)

    def worker(self, name: str) -> int:
        return int((self.folder / f"{name}.worker").read_text())

    def end(self) -> str:
        output, _ = self.process.communicate(timeout=PATIENCE)
        return output


@pytest.fixture
def stubs(tmp_path: Path) -> Iterator[Callable[..., Stubs]]:
    started: list[Stubs] = []

    def start(*units: str) -> Stubs:
        started.append(Stubs(tmp_path, *units))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.terminate()
        one.process.communicate(timeout=PATIENCE)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_services_start_in_order_and_stop_in_reverse(stubs: Callable[..., Stubs], tmp_path: Path) -> None:
    suite = stubs("a:late", "b::a", "c::b")
    suite.until_phase("serving")
    assert (tmp_path / "order").read_text().split() == ["a", "b", "c"]
    suite.process.send_signal(signal.SIGTERM)
    lines = suite.end().splitlines()
    assert suite.process.returncode == 0
    assert [line.split()[0] for line in lines if line.endswith("stopped")] == ["c", "b", "a", "suite"]
    assert all((tmp_path / f"{name}.ended").exists() for name in "abc")
    assert (tmp_path / "logs" / "a.log").read_text() == "a starts\n"


def test_a_killed_service_comes_back_and_its_workers_do_not_stay(stubs: Callable[..., Stubs]) -> None:
    suite = stubs("a:family", "b")
    suite.until_phase("serving")
    first, worker, other = suite.service("a")["pid"], suite.worker("a"), suite.service("b")["pid"]
    os.kill(first, signal.SIGKILL)
    suite.until(lambda: suite.service("a")["restarts"] == 1 and suite.service("a")["phase"] == "serving", "back")
    assert suite.service("a")["pid"] != first
    assert suite.service("a")["last_exit"] == "was ended by SIGKILL"
    assert is_gone(worker)
    assert not is_gone(suite.worker("a"))
    assert (suite.service("b")["pid"], suite.service("b")["restarts"]) == (other, 0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_nothing_is_left_when_the_supervisor_ends(stubs: Callable[..., Stubs], number: signal.Signals) -> None:
    suite = stubs("a:family", "b:stubborn")
    suite.until_phase("serving")
    pids = [suite.service("a")["pid"], suite.service("b")["pid"], suite.worker("a")]
    assert not any(map(is_gone, pids))
    suite.process.send_signal(number)
    suite.process.wait(PATIENCE)
    suite.until(lambda: all(map(is_gone, pids)), "all gone")
    run = RunFolder(suite.folder / "run")
    state = run.read()
    assert state is not None
    assert not state.is_alive()


def test_a_service_that_cannot_start_ends_the_start_with_its_reason(stubs: Callable[..., Stubs]) -> None:
    suite = stubs("a", "b:crash", "c::b")
    output = suite.end()
    assert suite.process.returncode == 1
    assert "b ended with exit code 7; given up after 3 starts" in output
    assert "b: the reason" in output
    state = suite.state()
    assert state["phase"] == "failed"
    assert [state["services"][name]["phase"] for name in "abc"] == ["stopped", "failed", "stopped"]


def test_a_service_that_never_becomes_healthy_is_named(stubs: Callable[..., Stubs]) -> None:
    suite = stubs("a", "b:silent")
    assert "b did not become healthy within 1 s; given up after 3 starts" in suite.end()
    assert suite.process.returncode == 1
    assert suite.service("b")["phase"] == "failed"


def test_a_full_disk_ends_nothing_and_is_said_once(stubs: Callable[..., Stubs], tmp_path: Path) -> None:
    suite = stubs("a", "b")
    suite.until_phase("serving")
    first, other = suite.service("a")["pid"], suite.service("b")["pid"]
    full, pid = tmp_path / "full", tmp_path / "a.pid"
    full.touch()
    for _ in range(2):
        former = pid.read_text()
        os.kill(int(former), signal.SIGKILL)
        suite.until(lambda former=former: pid.read_text() not in ("", former), "started again")  # type: ignore[misc]
    assert suite.service("a")["pid"] == first
    full.unlink()
    suite.until(lambda: suite.service("a")["restarts"] == 2 and suite.service("a")["phase"] == "serving", "up to date")
    assert (suite.service("b")["pid"], suite.service("b")["restarts"]) == (other, 0)
    full.touch()
    suite.process.send_signal(signal.SIGTERM)
    output = suite.end()
    # In order, and not killed.
    assert suite.process.returncode == 0, output
    assert (tmp_path / "a.ended").exists()
    assert (tmp_path / "b.ended").exists()
    assert output.count("its state cannot be written (No space left on device)") == 2


def test_a_process_that_cannot_be_started_counts_as_one_that_crashed(
    stubs: Callable[..., Stubs], tmp_path: Path
) -> None:
    suite = stubs("a")
    suite.until_phase("serving")
    (tmp_path / "no-room").touch()
    os.kill(suite.service("a")["pid"], signal.SIGKILL)
    suite.until(lambda: "cannot be started: [Errno 24] Too many open files" in suite.service("a")["last_exit"], "tried")
    (tmp_path / "no-room").unlink()
    suite.until(lambda: suite.service("a")["phase"] == "serving", "back")
    # What was begun and could not be watched is not left behind.
    stub = f"stub_service.py\0{tmp_path}\0a\0".encode()
    running = [found for found in Path("/proc").glob("[0-9]*/cmdline") if stub in read(found)]
    assert [int(found.parent.name) for found in running] == [suite.service("a")["pid"]]


def read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def test_a_start_without_room_ends_with_its_reason(stubs: Callable[..., Stubs], tmp_path: Path) -> None:
    (tmp_path / "no-room").touch()
    suite = stubs("a")
    assert "a cannot be started: [Errno 24] Too many open files; given up after 3 starts" in suite.end()
    assert suite.process.returncode == 1


def test_health_that_cannot_be_asked_for_is_no_health_yet(stubs: Callable[..., Stubs], tmp_path: Path) -> None:
    (tmp_path / "a.unasked").touch()
    suite = stubs("a")
    suite.until(lambda: (tmp_path / "a.pid").exists(), "started")
    assert suite.service("a")["phase"] == "starting"
    (tmp_path / "a.unasked").unlink()
    suite.until_phase("serving")
    assert suite.service("a")["restarts"] == 0


def test_upkeep_that_fails_is_said_once_and_tried_again(stubs: Callable[..., Stubs], tmp_path: Path) -> None:
    suite = stubs("a:neglected", "b")
    suite.until_phase("serving")
    rounds = [tmp_path / "a.upkeep", tmp_path / "b.upkeep"]
    suite.until(lambda: all(one.exists() and len(one.read_text().split()) >= 3 for one in rounds), "three rounds")
    suite.process.send_signal(signal.SIGTERM)
    output = suite.end()
    assert suite.process.returncode == 0
    assert output.count("its upkeep fails, and is tried again: [Errno 28] No space left on device") == 1


def test_a_fault_of_the_supervisor_itself_gives_the_service_up(stubs: Callable[..., Stubs], tmp_path: Path) -> None:
    suite = stubs("a", "b:unkept:a")
    output = suite.end()
    assert suite.process.returncode == 1
    assert "b cannot be kept running: LookupError('a fault of our own'); given up" in output
    assert (tmp_path / "a.ended").exists()


def test_a_suite_that_cannot_write_its_state_does_not_start(stubs: Callable[..., Stubs], tmp_path: Path) -> None:
    (tmp_path / "full").touch()
    suite = stubs("a")
    assert "No space left on device" in suite.end()
    assert suite.process.returncode == 1
    assert not (tmp_path / "order").exists()


def test_there_is_one_supervisor_per_folder(stubs: Callable[..., Stubs]) -> None:
    suite = stubs("a")
    suite.until_phase("serving")
    second = stubs("a")
    assert second.end() == "running already\n"
    assert second.process.returncode == 0
    assert suite.process.poll() is None


def test_after_kill_9_of_the_supervisor_a_new_one_starts(stubs: Callable[..., Stubs]) -> None:
    first = stubs("a")
    first.until_phase("serving")
    first.process.kill()
    first.process.wait(PATIENCE)
    pid = first.service("a")["pid"]
    first.until(lambda: is_gone(pid), "gone")
    second = stubs("a")
    second.until(lambda: second.state().get("pid") == second.process.pid, "taken over")
    second.until_phase("serving")
    assert second.service("a")["pid"] != pid
