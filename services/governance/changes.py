"""Tells waiting coroutines that something changed."""

from __future__ import annotations

import asyncio


class Changes:
    """A broadcast without content; belongs to one event loop.

    Take ``next()`` before reading the state, and wait for it after: a change in between is then not missed.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def announce(self) -> None:
        """Wake everyone who waits."""
        self._event.set()
        self._event = asyncio.Event()

    def next(self) -> asyncio.Event:
        """Return what the next change from now on sets."""
        return self._event
