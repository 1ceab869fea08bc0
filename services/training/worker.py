"""The training process: launches the ranks through torch elastic, judges what they made, and ends.

Started by ``launch.py`` as ``python -m services.training.worker <ranks fd> <judging fd> <result fd> <scratch>``.
Standard input brings the recipe on its first line and is a lifeline after that: when it closes, because the service
cancelled or ended, this process and its ranks are killed. Standard output carries events as JSON lines; the result goes to
a memory file.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import uuid
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from services.training.judging import UnusableModelError, judge
from services.training.recipe import Recipe, open_memory, read_tensors, write_tensors
from services.training.trainer import Events, InheritedFile, train_rank

LOCAL = "127.0.0.1"


def main() -> int:
    """Run and return the exit code."""
    ranks, judging, result = (int(argument) for argument in sys.argv[1:4])
    pipe = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints must not look like an event
    events = Events(pipe)
    recipe = Recipe.decode(sys.stdin.readline())
    scratch = Path(sys.argv[4])
    threading.Thread(target=_end_with_lifeline, args=(scratch,), name="lifeline", daemon=True).start()
    weights = open_memory("weights")
    try:
        _launch(recipe, scratch, InheritedFile(ranks), InheritedFile(weights), InheritedFile(pipe))
        events.send("trained")
        write_tensors(result, judge(read_tensors(weights), read_tensors(judging)))
        events.send("judged")
    except ChildFailedError as error:
        events.send("failed", error=_what_ended(error), killed=_was_killed(error))
        return 1
    except UnusableModelError as error:
        events.send("failed", error=str(error), killed=False)
        return 1
    return 0


def _launch(recipe: Recipe, scratch: Path, data: InheritedFile, weights: InheritedFile, pipe: InheritedFile) -> None:
    """Run all ranks to their end.

    They meet in files of the private scratch folder: torch's TCP store would listen on every interface, and what elastic
    agents keep in it is unpickled.

    Raises:
        ChildFailedError: one failed; the others were ended.
    """
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=recipe.world_size,
        run_id=uuid.uuid4().hex,
        role="trainer",
        rdzv_backend="c10d",
        rdzv_endpoint=str(scratch / "rendezvous"),
        rdzv_configs={"store_type": "file"},
        local_addr=LOCAL,
        max_restarts=0,
        monitor_interval=0.1,
        start_method="spawn",
        logs_specs=DefaultLogsSpecs(),
    )
    elastic_launch(config, train_rank)(recipe, os.getpid(), scratch / "ranks", data, weights, pipe)


def _end_with_lifeline(scratch: Path) -> None:
    """Wait until standard input closes, then end the process group: this process and its ranks."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    shutil.rmtree(scratch, ignore_errors=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _was_killed(error: ChildFailedError) -> bool:
    _, failure = error.get_first_failure()
    return failure.exitcode < 0


def _what_ended(error: ChildFailedError) -> str:
    rank, failure = error.get_first_failure()
    if failure.exitcode < 0:
        return f"rank {rank} was ended by {signal.Signals(-failure.exitcode).name}"
    return f"rank {rank} ended with exit code {failure.exitcode}"


if __name__ == "__main__":
    sys.exit(main())
