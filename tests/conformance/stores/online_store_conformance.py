"""What every online store must do: the rules of the port as tests. An engine's test class gives `reopen`."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from services.features.online_store import OnlineStore, StoredView, Values

VIEW = StoredView("behaviour", b"schema-1", 2)
OTHER = StoredView("profile", b"schema-1", 1)
ABSENT = np.iinfo(np.int64).min
Open = Callable[[], OnlineStore]


def values(*rows: Sequence[float], event_us: Sequence[int] | int = 100) -> Values:
    """Values with one event time for all or one each."""
    block = np.array(rows, dtype=float)
    return Values(block, np.broadcast_to(np.asarray(event_us, np.int64), len(block)))


class OnlineStoreConformance:
    """Runs against a fresh store per test; `store` is a fixture of the engine's class."""

    def test_values_come_back_in_the_order_asked(self, store: OnlineStore) -> None:
        assert store.write(VIEW, ["a", "b"], values([1.0, math.nan], [3.0, 4.0], event_us=[100, 200]), 500) == 2
        found = store.read(VIEW, ["b", "nobody", "a", "b"])
        np.testing.assert_array_equal(found.values, [[3.0, 4.0], [math.nan, math.nan], [1.0, math.nan], [3.0, 4.0]])
        assert found.event_us.tolist() == [200, ABSENT, 100, 200]

    def test_the_bytes_that_went_in_come_out(self, store: OnlineStore) -> None:
        block = np.array([[np.nextafter(1.0, 2.0), -0.0], [np.nan, np.finfo(float).tiny]])
        store.write(VIEW, ["a", "b"], Values(block, np.array([1, 2])), 3)
        assert store.read(VIEW, ["a", "b"]).values.tobytes() == block.tobytes()

    @pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
    def test_the_newest_event_time_wins_in_any_order(self, store: OnlineStore, order: tuple[int, ...]) -> None:
        newest = [(10.0, 1), (20.0, 2), (30.0, 3)]  # FS-07
        for index in order:
            value, event_us = newest[index]
            store.write(VIEW, ["a"], values([value, value], event_us=event_us), 500)
        assert store.read(VIEW, ["a"]).values[0].tolist() == [30.0, 30.0]

    @pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
    def test_the_newest_wins_within_one_write(self, store: OnlineStore, order: tuple[int, ...]) -> None:
        block = np.array([[10.0, 1.0], [20.0, 2.0], [30.0, 3.0]])[list(order)]  # FS-07
        store.write(VIEW, ["a", "a", "a"], Values(block, np.array([1, 2, 3])[list(order)]), 500)
        assert store.read(VIEW, ["a"]).values[0].tolist() == [30.0, 3.0]

    def test_the_newest_wins_over_concurrent_writes(self, store: OnlineStore) -> None:
        def write(start: int) -> None:  # FS-07
            for event_us in range(start, 60, 2):
                store.write(VIEW, ["a"], values([event_us, event_us], event_us=event_us), 500)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(write, (0, 1)))
        assert store.read(VIEW, ["a"]).values[0].tolist() == [59.0, 59.0]

    def test_of_one_event_time_the_newest_as_of_time_wins(self, store: OnlineStore) -> None:
        assert store.write(VIEW, ["a"], values([2.0, 2.0]), 600) == 1
        assert store.write(VIEW, ["a"], values([1.0, 1.0]), 500) == 0
        assert store.write(VIEW, ["a"], values([3.0, 3.0]), 600) == 1
        assert store.read(VIEW, ["a"]).values[0].tolist() == [3.0, 3.0]

    def test_views_do_not_see_each_other(self, store: OnlineStore) -> None:
        store.write(VIEW, ["a"], values([1.0, 2.0]), 500)
        store.write(OTHER, ["a"], values([9.0]), 500)
        assert store.read(VIEW, ["a"]).values.tolist() == [[1.0, 2.0]]
        assert store.read(OTHER, ["a"]).values.tolist() == [[9.0]]
        assert store.read(OTHER, ["b"]).event_us.tolist() == [ABSENT]

    def test_another_schema_version_is_never_misread(self, store: OnlineStore) -> None:
        store.write(VIEW, ["a"], values([1.0, 2.0], event_us=900), 900)
        changed = StoredView("behaviour", b"schema-2", 2)
        assert store.read(changed, ["a"]).event_us.tolist() == [ABSENT]
        store.write(changed, ["a"], values([3.0, 4.0], event_us=100), 500)
        assert store.read(changed, ["a"]).values.tolist() == [[3.0, 4.0]]
        assert store.read(VIEW, ["a"]).event_us.tolist() == [ABSENT]

    def test_an_erased_entity_is_gone_and_the_others_stay(self, store: OnlineStore) -> None:
        store.write(VIEW, ["a", "b"], values([1.0, 2.0], [3.0, 4.0]), 500)
        store.write(OTHER, ["a"], values([9.0]), 500)
        erased = store.erase(["behaviour", "profile", "unused"], "a")
        assert (erased.values, erased.remaining) == (2, 0)
        assert erased.objects_searched >= 1
        assert store.read(VIEW, ["a", "b"]).event_us.tolist() == [ABSENT, 100]
        assert store.read(OTHER, ["a"]).event_us.tolist() == [ABSENT]
        again = store.erase(["behaviour", "profile"], "a")
        assert (again.values, again.remaining) == (0, 0)
        assert store.write(VIEW, ["a"], values([5.0, 6.0], event_us=1), 1) == 1

    def test_values_survive_a_restart(self, store: OnlineStore, reopen: Open) -> None:
        store.write(VIEW, ["a", "b"], values([1.0, 2.0], [3.0, 4.0]), 500)
        store.erase(["behaviour"], "a")
        store.close()
        again = reopen()
        assert again.read(VIEW, ["a", "b"]).event_us.tolist() == [ABSENT, 100]
        again.close()

    def test_reads_go_on_while_writes_and_erasures_run(self, store: OnlineStore) -> None:
        clients = [f"c{index}" for index in range(500)]  # FS-15
        store.write(VIEW, clients, values(*[[1.0, 1.0]] * 500, event_us=1), 1)
        ended = threading.Event()

        def change() -> None:
            try:
                for event_us in range(2, 8):
                    store.write(VIEW, clients, values(*[[event_us, event_us]] * 500, event_us=event_us), event_us)
                    store.erase(["behaviour"], f"gone{event_us}")
            finally:
                ended.set()

        thread = threading.Thread(target=change)
        thread.start()
        while not ended.is_set():
            found = store.read(VIEW, clients[::50])
            assert (found.values[:, 0] == found.values[:, 1]).all()
            assert (found.event_us >= 1).all()
        thread.join()
        assert store.read(VIEW, clients).event_us.tolist() == [7] * 500


def occurrences(folder: Path, needle: bytes) -> int:
    """How often bytes occur in all files of a folder."""
    return sum(path.read_bytes().count(needle) for path in folder.rglob("*") if path.is_file())
