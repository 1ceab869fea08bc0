"""Keeps an append that is under way from bringing back a subject who is erased meanwhile.

Its rows are in memory, where an erasure does not see them. So erased subjects are remembered while any append is under
way, and its commit leaves them out. Rows that are sent after an erasure are new data, and the source's affair.
"""

from __future__ import annotations

import threading


class ErasureGate:
    """The appends under way on one dataset, and who was erased meanwhile. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way = 0
        self._erased: set[str] = set()

    def enter(self) -> None:
        """Begin an append."""
        with self._lock:
            self._under_way += 1

    def leave(self) -> None:
        """End an append."""
        with self._lock:
            self._under_way -= 1
            if not self._under_way:
                self._erased.clear()

    def close_to(self, pseudonym: str) -> None:
        """Remember a subject for the appends under way."""
        with self._lock:
            if self._under_way:
                self._erased.add(pseudonym)

    def erased(self) -> frozenset[str]:
        """Return the subjects to leave out."""
        with self._lock:
            return frozenset(self._erased)
