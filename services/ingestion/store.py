"""Tables of the ingestion service: datasets, appends and quarantine. Rows of a dataset live in the lake alone.

An append is first written here as invisible with its quarantined rows, then committed to the lake, then made visible
here. What a crash leaves invisible is settled at the next start by asking the lake whether the commit is there.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from hedgerow.errors import AlreadyExistsError, NotFoundError, ResourceExhaustedError
from libs.sql import Database
from services.ingestion.contract import Contract
from services.ingestion.dataset import Append, Dataset, QuarantineEntry, SealedRow

_CHUNK_ROWS = 1000

metadata = sa.MetaData()
datasets = sa.Table(
    "datasets",
    metadata,
    sa.Column("id", sa.String(63), primary_key=True),
    sa.Column("contract", sa.Text, nullable=False),
    sa.Column("pseudonym_domain", sa.String(63), nullable=False),
    sa.Column("quarantine_key", sa.LargeBinary, nullable=False),
    sa.Column("create_us", sa.BigInteger, nullable=False),
)
appends = sa.Table(
    "appends",
    metadata,
    sa.Column("dataset_id", sa.String(63), primary_key=True),
    sa.Column("request_id", sa.String(36), primary_key=True),
    sa.Column("visible", sa.Boolean, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("row_count", sa.BigInteger, nullable=False),
    sa.Column("quarantined_row_count", sa.BigInteger, nullable=False),
    sa.Column("create_us", sa.BigInteger, nullable=False),
)
quarantine = sa.Table(
    "quarantine",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("dataset_id", sa.String(63), nullable=False),
    sa.Column("request_id", sa.String(36), nullable=False),
    sa.Column("row_index", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("content", sa.LargeBinary, nullable=False),
)


class IngestionStore:
    """Datasets, appends and quarantine. All methods block; each is one transaction."""

    def __init__(self, database: Database, *, max_datasets: int) -> None:
        self._database = database
        self._max_datasets = max_datasets
        self._counting = threading.Lock()
        # What an earlier process deleted, it may not have scrubbed.
        self._deletions, self._scrubbed = 1, 0

    # ---- datasets

    def add_dataset(self, dataset: Dataset) -> Dataset:
        """Add a dataset; one of the same name and contract is returned as it is.

        Raises:
            AlreadyExistsError: the name is taken by another contract.
            ResourceExhaustedError: there are as many datasets as allowed.
        """
        with self._database.session() as session:
            row = session.execute(sa.select(datasets).where(datasets.c.id == dataset.id)).one_or_none()
            if row is not None:
                if row.contract != dataset.contract.to_json():
                    raise AlreadyExistsError(
                        f"datasets/{dataset.id} exists under another contract; choose another id",
                        metadata={"resource": f"datasets/{dataset.id}"},
                    )
                return _dataset(row)
            if session.execute(sa.select(sa.func.count()).select_from(datasets)).scalar_one() >= self._max_datasets:
                raise ResourceExhaustedError(f"there are {self._max_datasets} datasets already, the most allowed")
            session.execute(
                datasets.insert().values(
                    id=dataset.id,
                    contract=dataset.contract.to_json(),
                    pseudonym_domain=dataset.contract.pseudonym_domain,
                    quarantine_key=dataset.quarantine_key,
                    create_us=dataset.create_us,
                )
            )
            return dataset

    def dataset(self, dataset_id: str) -> Dataset:
        """Return a dataset.

        Raises:
            NotFoundError: there is none of that id.
        """
        with self._database.reading() as session:
            row = session.execute(sa.select(datasets).where(datasets.c.id == dataset_id)).one_or_none()
        if row is None:
            name = f"datasets/{dataset_id}"
            raise NotFoundError(f"{name} does not exist", metadata={"resource": name})
        return _dataset(row)

    def datasets_after(self, dataset_id: str, limit: int) -> list[Dataset]:
        """Return datasets by id, those above ``dataset_id`` only."""
        query = sa.select(datasets).where(datasets.c.id > dataset_id).order_by(datasets.c.id).limit(limit)
        with self._database.reading() as session:
            return [_dataset(row) for row in session.execute(query)]

    def datasets_in(self, domain: str) -> list[Dataset]:
        """Return the datasets of a pseudonym domain by id."""
        query = sa.select(datasets).where(datasets.c.pseudonym_domain == domain).order_by(datasets.c.id)
        with self._database.reading() as session:
            return [_dataset(row) for row in session.execute(query)]

    # ---- appends

    def find_append(self, dataset_id: str, request_id: str) -> Append | None:
        """Return a finished append, or None."""
        query = sa.select(appends).where(_is(dataset_id, request_id), appends.c.visible)
        with self._database.reading() as session:
            row = session.execute(query).one_or_none()
        return None if row is None else Append(row.version, row.row_count, row.quarantined_row_count)

    def begin_append(self, dataset_id: str, request_id: str, rows: Sequence[SealedRow], *, now_us: int) -> None:
        """Write an append and its quarantined rows, invisible; an unfinished one of the same id is replaced."""
        with self._undone(), self._database.session() as session:
            self._remove(session, dataset_id, request_id)
            session.execute(
                appends.insert().values(
                    dataset_id=dataset_id,
                    request_id=request_id,
                    visible=False,
                    version=0,
                    row_count=0,
                    quarantined_row_count=len(rows),
                    create_us=now_us,
                )
            )
            if rows:
                content = [
                    {
                        "dataset_id": dataset_id,
                        "request_id": request_id,
                        "row_index": row.row_index,
                        "reason": row.reason,
                        "content": row.content,
                    }
                    for row in rows
                ]
                session.execute(quarantine.insert(), content)

    def finish_append(self, dataset_id: str, request_id: str, *, version: int, row_count: int) -> Append:
        """Make an append visible and return what it did."""
        change = (
            appends.update()
            .where(_is(dataset_id, request_id))
            .values(visible=True, version=version, row_count=row_count)
            .returning(appends.c.quarantined_row_count)
        )
        with self._database.session() as session:
            quarantined = session.execute(change).scalar_one()
        return Append(version, row_count, quarantined)

    def discard_append(self, dataset_id: str, request_id: str) -> None:
        """Remove an unfinished append and its quarantined rows."""
        with self._database.session() as session:
            self._remove(session, dataset_id, request_id)

    def unfinished_appends(self) -> list[tuple[str, str]]:
        """Return (dataset id, request id) of the appends that a crash left invisible."""
        query = sa.select(appends.c.dataset_id, appends.c.request_id).where(~appends.c.visible)
        with self._database.reading() as session:
            return [(row.dataset_id, row.request_id) for row in session.execute(query)]

    # ---- quarantine

    def quarantined_count(self, dataset_id: str) -> int:
        """Return the number of rows in quarantine."""
        query = sa.select(sa.func.count()).select_from(_visible_rows()).where(quarantine.c.dataset_id == dataset_id)
        with self._database.reading() as session:
            return session.scalar(query) or 0

    def quarantined_before(self, dataset_id: str, before: int | None, limit: int) -> list[QuarantineEntry]:
        """Return quarantined rows, newest first, those with an id below ``before`` only."""
        query = (
            sa.select(quarantine, appends.c.create_us)
            .select_from(_visible_rows())
            .where(quarantine.c.dataset_id == dataset_id)
            .order_by(quarantine.c.id.desc())
            .limit(limit)
        )
        if before is not None:
            query = query.where(quarantine.c.id < before)
        with self._database.reading() as session:
            return [
                QuarantineEntry(row.id, row.row_index, row.reason, row.create_us, row.request_id)
                for row in session.execute(query)
            ]

    def quarantined_content(self, dataset_id: str) -> Iterator[list[tuple[int, str, SealedRow]]]:
        """Yield every quarantined row, invisible ones included, as (id, request id, row), some at a time."""
        last = 0
        while True:
            query = (
                sa.select(quarantine)
                .where(quarantine.c.dataset_id == dataset_id, quarantine.c.id > last)
                .order_by(quarantine.c.id)
                .limit(_CHUNK_ROWS)
            )
            with self._database.reading() as session:
                rows = session.execute(query).all()
            if not rows:
                return
            last = rows[-1].id
            yield [(row.id, row.request_id, SealedRow(row.row_index, row.reason, row.content)) for row in rows]

    def delete_quarantined(self, ids: Sequence[int]) -> None:
        """Delete quarantined rows; until ``scrub`` the database may keep what they held."""
        if ids:
            with self._database.session() as session:
                for start in range(0, len(ids), _CHUNK_ROWS):
                    self._delete(session, quarantine.c.id.in_(ids[start : start + _CHUNK_ROWS]))

    def scrub(self) -> None:
        """See to it that the database keeps nothing of the quarantined rows that were deleted, by whatever method.

        Raises:
            UnavailableError: it still does; call this again.
        """
        deletions = self._deletions
        if self._scrubbed != deletions:
            self._database.scrub(quarantine.name)
            self._scrubbed = deletions

    def _remove(self, session: Session, dataset_id: str, request_id: str) -> None:
        """Remove an append that is not visible, its rows first."""
        invisible = sa.exists().where(_is(dataset_id, request_id), ~appends.c.visible)
        self._delete(session, quarantine.c.dataset_id == dataset_id, quarantine.c.request_id == request_id, invisible)
        session.execute(appends.delete().where(_is(dataset_id, request_id), ~appends.c.visible))

    def _delete(self, session: Session, *rows: sa.ColumnElement[bool]) -> None:
        if session.execute(quarantine.delete().where(*rows)).rowcount:  # type: ignore[attr-defined]
            # Before the transaction ends: a scrub that has seen the number waits for it to let go of the table.
            self._count_deletion()

    @contextlib.contextmanager
    def _undone(self) -> Iterator[None]:
        """Rows of a transaction that fails were written too."""
        try:
            yield
        except BaseException:
            self._count_deletion()
            raise

    def _count_deletion(self) -> None:
        with self._counting:
            self._deletions += 1


def _dataset(row: sa.Row[Any]) -> Dataset:
    return Dataset(row.id, Contract.from_json(row.contract), row.quarantine_key, row.create_us)


def _is(dataset_id: str, request_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(appends.c.dataset_id == dataset_id, appends.c.request_id == request_id)


def _visible_rows() -> sa.FromClause:
    same_dataset = quarantine.c.dataset_id == appends.c.dataset_id
    same_request = quarantine.c.request_id == appends.c.request_id
    return quarantine.join(appends, sa.and_(same_dataset, same_request, appends.c.visible))
