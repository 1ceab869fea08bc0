"""Seals and ships what processes that are gone left in their instance folders."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from libs.audit.block_file import Disk
from libs.audit.instance import STATEMENT, Instance, InstanceFolder, try_lock
from libs.audit.outbox import Outbox, unshipped_count


async def settle_orphans(directory: Path, own: InstanceFolder, outbox: Outbox, disk: Disk) -> None:
    """Recovers, seals and ships each free folder beside `own` that has something unshipped.

    Raises what `Outbox.run` and `Instance.recover` raise.
    """
    for folder in await asyncio.to_thread(lambda: list(_unsettled(directory, own))):
        closing = asyncio.ensure_future(asyncio.to_thread(_close_orphan, folder, disk))
        try:
            orphan = await asyncio.shield(closing)
        except asyncio.CancelledError:
            # The thread goes on, and may yet take a lock that nobody would give back.
            closing.add_done_callback(_let_go)
            raise
        if orphan is None:
            continue
        try:
            await outbox.run(folder, lambda: None)
        finally:
            await asyncio.to_thread(orphan.release)


def _let_go(closing: asyncio.Future[Instance | None]) -> None:
    if not closing.cancelled() and closing.exception() is None and (orphan := closing.result()) is not None:
        orphan.release()


def _unsettled(directory: Path, own: InstanceFolder) -> Iterator[InstanceFolder]:
    for path in sorted(directory.iterdir()):
        folder = replace(own, path=path)
        # A break that is accepted is evidence until the next start sets it aside.
        if not path.is_dir() or path == own.path or (path / STATEMENT).exists():
            continue
        if unshipped_count(folder):
            yield folder


def _close_orphan(folder: InstanceFolder, disk: Disk) -> Instance | None:
    lock = try_lock(folder.path)
    if lock is None:
        return None
    orphan = Instance(folder, lock, segment_bytes=1, disk=disk)
    try:
        orphan.recover()
        orphan.roll()
    except BaseException:
        orphan.release()
        raise
    return orphan
