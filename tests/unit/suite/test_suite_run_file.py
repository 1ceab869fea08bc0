"""Who runs in a folder: nobody takes the processes of another folder for its own."""

import json
import os
import shutil
from pathlib import Path

from suite.process import start_ticks
from suite.run_file import RunFolder, RunState, ServiceState


def written(folder: Path) -> RunState:
    ticks = start_ticks(os.getpid())
    assert ticks is not None
    state = RunState(os.getpid(), ticks, "a-mark", services={"a": ServiceState("serving", 7)})
    run = RunFolder(folder / "run")
    assert run.lock()
    run.write(state)
    return state


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert RunFolder(tmp_path / "run").read() is None
    state = written(tmp_path)
    assert RunFolder(tmp_path / "run").read() == state
    assert state.is_alive()


def test_a_copy_of_a_folder_in_use_knows_nobody_of_the_original(tmp_path: Path) -> None:
    state = written(tmp_path / "original")
    shutil.copytree(tmp_path / "original", tmp_path / "copy")
    assert RunFolder(tmp_path / "copy" / "run").read() is None
    assert RunFolder(tmp_path / "original" / "run").read() == state
    # Also where the copy has taken the place of the original, whose processes still run.
    (tmp_path / "original").rename(tmp_path / "aside")
    (tmp_path / "copy").rename(tmp_path / "original")
    assert RunFolder(tmp_path / "original" / "run").read() is None
    assert RunFolder(tmp_path / "aside" / "run").read() == state


def test_a_state_that_names_no_folder_is_that_of_an_earlier_release(tmp_path: Path) -> None:
    state = written(tmp_path)
    file = tmp_path / "run" / "suite.json"
    content = json.loads(file.read_text())
    del content["folder"]
    file.write_text(json.dumps(content))
    found = RunFolder(tmp_path / "run").read()
    assert found is not None
    assert found.run == state.run
