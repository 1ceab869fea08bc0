"""Erases a subject from the lake and from quarantine, and searches what remains."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from hedgerow.errors import CallCancelledError, HedgerowError, InvalidArgumentError, UnavailableError
from services.ingestion.catalog import Catalog, OpenDataset
from services.ingestion.workers import Stop

_PSEUDONYM = re.compile(r"[0-9a-f]{32}")
_DOMAIN = re.compile(r"[a-z][a-z0-9_]{0,62}")
SCRUB_SECONDS = 30.0
SCRUB_PAUSE_SECONDS = 1.0


@dataclass
class StoreErasure:
    """What was done in one store; the counts of ``StoreErasure`` of the contract."""

    store: str
    objects_searched: int = 0
    objects_rewritten: int = 0
    objects_destroyed: int = 0
    rows_erased: int = 0
    remaining_hits: int = 0
    error: str = ""


def check_subject(domain: str, pseudonym: str) -> None:
    """Check what names a subject. The pseudonym is never repeated in an error.

    Raises:
        InvalidArgumentError: one is malformed.
    """
    faults = {}
    if not _DOMAIN.fullmatch(domain):
        faults["domain"] = "expected 1 to 63 of [a-z0-9_], starting with a letter"
    if not _PSEUDONYM.fullmatch(pseudonym):
        faults["pseudonym"] = "expected 32 lower-case hexadecimal characters"
    if faults:
        raise InvalidArgumentError("the subject is not named as it must be", fields=faults)


def erase_subject(catalog: Catalog, domain: str, pseudonym: str, receipt: str, stop: Stop) -> list[StoreErasure]:
    """Remove a subject from every dataset of a domain. Blocks; doing it again does no harm.

    A fault in one store does not keep the others from being erased; it is reported with that store, next to the counts
    of what was done, and the same call made again does what is left.

    Args:
        catalog: the datasets.
        domain: of the pseudonym.
        pseudonym: the subject.
        receipt: name of the erasure request.
        stop: raises when nobody waits any more.

    Raises:
        CallCancelledError: ``stop`` raised it.
        UnavailableError: the database does not answer; nothing was done.
    """
    lake, quarantine = StoreErasure("lake"), StoreErasure("quarantine")
    for dataset in catalog.store.datasets_in(domain):
        stop()
        try:
            opened = catalog.open(dataset.id)
        except HedgerowError as error:
            lake.error = quarantine.error = f"datasets/{dataset.id}: {error.message}"
            continue
        # From here on, no append that is under way and has not begun its commit brings the subject back; one that has
        # holds ``changing``, and both stores are cleared while nobody does.
        opened.gate.close_to(pseudonym)
        _guarded(lake, opened, partial(_erase_lake, lake, opened, pseudonym, receipt, stop))
        with opened.changing:
            _guarded(quarantine, opened, partial(_erase_quarantine, quarantine, catalog, opened, pseudonym, stop))
    _scrub(quarantine, catalog, stop)
    return [lake, quarantine]


def _guarded(result: StoreErasure, opened: OpenDataset, erase: Callable[[], None]) -> None:
    try:
        erase()
    except CallCancelledError:
        raise
    except HedgerowError as error:
        result.error = f"datasets/{opened.id}: {error.message}"


def _erase_lake(result: StoreErasure, opened: OpenDataset, pseudonym: str, receipt: str, stop: Stop) -> None:
    erased = opened.table.erase(pseudonym, receipt, stop, closed=_closed(opened, pseudonym))
    result.objects_rewritten += erased.objects_rewritten
    result.objects_destroyed += erased.objects_destroyed
    result.rows_erased += erased.rows_erased
    found = opened.table.search(pseudonym, stop, files=erased.files)
    result.objects_searched += found.objects_searched
    result.remaining_hits += found.hits


@contextlib.contextmanager
def _closed(opened: OpenDataset, pseudonym: str) -> Iterator[None]:
    """No append commits meanwhile, and those that began during the search leave the subject out afterwards."""
    with opened.changing:
        opened.gate.close_to(pseudonym)
        yield


def _erase_quarantine(result: StoreErasure, catalog: Catalog, opened: OpenDataset, pseudonym: str, stop: Stop) -> None:
    held, _ = _search_quarantine(catalog, opened, pseudonym, stop)
    catalog.store.delete_quarantined(held)
    result.objects_destroyed += len(held)
    result.rows_erased += len(held)
    remaining, searched = _search_quarantine(catalog, opened, pseudonym, stop)
    result.objects_searched += searched
    result.remaining_hits += len(remaining)


def _search_quarantine(catalog: Catalog, opened: OpenDataset, pseudonym: str, stop: Stop) -> tuple[list[int], int]:
    """Return the ids of quarantined rows that hold the pseudonym, and how many rows were searched."""
    held: list[int] = []
    searched = 0
    for rows in catalog.store.quarantined_content(opened.id):
        stop()
        searched += len(rows)
        held += [entry for entry, request_id, row in rows if opened.quarantine.holds(request_id, row, pseudonym)]
    return held, searched


def _scrub(result: StoreErasure, catalog: Catalog, stop: Stop) -> None:
    """Have the database give up what was deleted, which a transaction older than that can hold up for a while.

    Only this is repeated: the rows are gone, and a whole call made again would count none.
    """
    give_up = time.monotonic() + SCRUB_SECONDS
    while True:
        try:
            return catalog.store.scrub()
        except UnavailableError as error:
            if time.monotonic() >= give_up:
                result.error = result.error or error.message
                return None
        stop()
        time.sleep(SCRUB_PAUSE_SECONDS)
