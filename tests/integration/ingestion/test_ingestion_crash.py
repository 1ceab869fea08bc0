"""kill -9 in the middle of appends: what was acknowledged is there once, what was not is there wholly or not at all."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tests.integration.ingestion.appender import ROWS, LastingKeys, append, start
from tests.unit.ingestion.ingestion_fixtures import read

KILLS = 4


def acknowledged_before_a_kill(folder: Path, first: int, chance: random.Random) -> int:
    """Run the appender from a number on, kill it at a random moment, and return the last number it acknowledged."""
    command = [sys.executable, "-m", "tests.integration.ingestion.appender", str(folder), str(first)]
    last = first - 1
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(chance.randrange(1, 6)):
            last = int(process.stdout.readline())
        time.sleep(chance.uniform(0, 0.03))
        process.kill()
        for line in process.stdout:
            if line.endswith("\n"):
                last = int(line)
    return last


def test_nothing_acknowledged_is_lost_and_nothing_is_half_there(tmp_path: Path) -> None:
    chance = random.Random(7)
    following = 1
    for _ in range(KILLS):
        last = acknowledged_before_a_kill(tmp_path, following, chance)
        assert last >= following
        catalog = start(tmp_path)
        opened = catalog.open("clients")
        counts = Counter(read(opened, LastingKeys(), "limit").column("limit").to_pylist())
        # The append under way at the kill may be committed without its answer having left.
        assert set(range(1, last + 1)) <= set(counts) <= set(range(1, last + 2))
        assert set(counts.values()) == {ROWS}
        assert catalog.store.quarantined_count("clients") == len(counts)
        listed = set(opened.table.snapshot().files)
        on_disk = {path.name for path in (tmp_path / "lake" / "clients").glob("*.parquet")}
        assert on_disk == listed, "a file that no version lists is cleaned at the start"
        # The client repeats what it got no answer for.
        append(catalog, last + 1)
        counts = Counter(read(opened, LastingKeys(), "limit").column("limit").to_pylist())
        assert counts == dict.fromkeys(range(1, last + 2), ROWS)
        following = last + 2
        catalog.store._database.close()  # a file takes one process
