"""Fails in every way that Python or a library would tell of by itself; the tests read its standard error."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading

from libs.telemetry import configure_logging

DETAIL = "a personal detail"


def fail() -> None:
    """Raise an error that quotes data."""
    raise ValueError(DETAIL)


class Unraisable:
    """Fails where no caller can be told."""

    def __del__(self) -> None:
        fail()


async def forget() -> None:
    """Leave a task whose exception nobody retrieves."""

    async def failing() -> None:
        fail()

    task = asyncio.create_task(failing())
    await asyncio.wait([task])
    del task
    gc.collect()


def main() -> None:
    """Fail in turn: in a library's log, a task, a thread, a destructor, and at last for good."""
    configure_logging("test")
    try:
        fail()
    except ValueError:
        logging.getLogger("library").exception("it said %s", DETAIL, stack_info=True)
    asyncio.run(forget())
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    Unraisable()
    fail()


if __name__ == "__main__":
    main()
