"""Tables of the governance service: policy bundles, the index of the audit trail and its anchors, erasure requests.

The segments themselves are in the vault; the index can be made again from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from hedgerow.errors import AlreadyExistsError, NotFoundError
from libs.audit import AuditEvent, StoredEvent
from libs.audit.event import decode, encode
from libs.sql import Database
from services.governance.bundle import PolicyBundle
from services.governance.erasure import ErasureRequest, State, decode_stores, encode_stores
from services.governance.held_segment import HASH_BYTES, HeldSegment, Owner, ReportedHead
from services.governance.register_seal import RegisterSeal

_metadata = sa.MetaData()
_bundles = sa.Table(
    "policy_bundles",
    _metadata,
    sa.Column("version", sa.BigInteger, primary_key=True),
    sa.Column("content", sa.LargeBinary),
    sa.Column("signature", sa.LargeBinary),
    sa.Column("key_version", sa.Integer),
    sa.Column("create_ns", sa.BigInteger),
)
_segments = sa.Table(
    "audit_segments",
    _metadata,
    sa.Column("name", sa.String(80), primary_key=True),
    sa.Column("service", sa.String(32)),
    sa.Column("instance", sa.String(32)),
    sa.Column("first_sequence", sa.BigInteger),
    sa.Column("last_sequence", sa.BigInteger),
    sa.Column("chain_hash", sa.LargeBinary),
    sa.Column("tree_roots", sa.LargeBinary),
    sa.Column("content_sha256", sa.LargeBinary),
)
_events = sa.Table(
    "audit_events",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("service", sa.String(32)),
    sa.Column("instance", sa.String(32)),
    sa.Column("event_ns", sa.BigInteger),
    sa.Column("actor", sa.Text),
    sa.Column("action", sa.Text),
    sa.Column("decision", sa.Text),
    sa.Column("record", sa.LargeBinary),
)
_heads = sa.Table(
    "audit_heads",
    _metadata,
    sa.Column("service", sa.String(32), primary_key=True),
    sa.Column("instance", sa.String(32), primary_key=True),
    sa.Column("sequence", sa.BigInteger),
    sa.Column("chain_hash", sa.LargeBinary),
    sa.Column("report_ns", sa.BigInteger),
)
_anchors = sa.Table(
    "audit_anchors",
    _metadata,
    sa.Column("id", sa.String(96), primary_key=True),
    sa.Column("note", sa.Text),
)
_erasures = sa.Table(
    "erasure_requests",
    _metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("request_id", sa.String(36)),
    sa.Column("domain", sa.String(63)),
    sa.Column("subject_hash", sa.String(128)),
    sa.Column("state", sa.String(16)),
    sa.Column("stores", sa.Text),
    sa.Column("create_ns", sa.BigInteger),
    sa.Column("end_ns", sa.BigInteger),
    sa.Column("receipt", sa.LargeBinary),
    sa.Column("signature", sa.LargeBinary),
)


class PolicyStore:
    """Every policy bundle. All methods block; each is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, bundle: PolicyBundle) -> None:
        """Keep a bundle.

        Raises:
            AlreadyExistsError: there is one of that version.
        """
        try:
            with self._database.session() as session:
                session.execute(
                    _bundles.insert().values(
                        version=bundle.version,
                        content=bundle.content,
                        signature=bundle.signature,
                        key_version=bundle.key_version,
                        create_ns=bundle.create_ns,
                    )
                )
        except sa.exc.IntegrityError as error:
            raise AlreadyExistsError(f"there is a policy bundle of version {bundle.version} already") from error

    def latest(self) -> PolicyBundle | None:
        """Return the bundle with the highest version, or None."""
        with self._database.reading() as session:
            row = session.execute(sa.select(_bundles).order_by(_bundles.c.version.desc()).limit(1)).one_or_none()
        return None if row is None else PolicyBundle(**row._mapping)


class TrailStore:
    """The index of the audit trail. All methods block; each is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def segment(self, name: str) -> HeldSegment | None:
        """Return a segment by its id."""
        return self._one_segment(_segments.c.name == name)

    def predecessor(self, owner: Owner, first_sequence: int) -> HeldSegment | None:
        """Return the held segment of a chain that starts last before ``first_sequence``."""
        return self._one_segment(*_of(_segments, owner), _segments.c.first_sequence < first_sequence)

    def overlapping(self, segment: HeldSegment) -> HeldSegment | None:
        """Return a held segment that claims an event of the given one."""
        return self._one_segment(
            *_of(_segments, segment.owner),
            _segments.c.first_sequence <= segment.last_sequence,
            _segments.c.last_sequence >= segment.first_sequence,
        )

    def add_segment(self, segment: HeldSegment, events: Iterable[tuple[int, AuditEvent]]) -> None:
        """Index a segment and its (sequence, event) pairs."""
        service, instance = segment.owner
        rows = [
            {
                "service": service,
                "instance": instance,
                "event_ns": event.event_time_ns,
                "actor": event.actor,
                "action": event.action,
                "decision": event.decision,
                "record": encode(event, sequence),
            }
            for sequence, event in events
        ]
        with self._database.session() as session:
            session.execute(
                _segments.insert().values(
                    name=segment.name,
                    service=service,
                    instance=instance,
                    first_sequence=segment.first_sequence,
                    last_sequence=segment.last_sequence,
                    chain_hash=segment.chain_hash,
                    tree_roots=b"".join(segment.tree_roots),
                    content_sha256=segment.content_sha256,
                )
            )
            session.execute(_events.insert(), rows)

    def names_after(self, name: str, limit: int) -> list[str]:
        """Return ids of segments above ``name``, in order: by service, instance and sequence."""
        query = sa.select(_segments.c.name).where(_segments.c.name > name).order_by(_segments.c.name).limit(limit)
        with self._database.reading() as session:
            return list(session.execute(query).scalars())

    def successor(self, owner: Owner, sequence: int) -> HeldSegment | None:
        """Return the held segment of a chain that starts first behind ``sequence``."""
        conditions = (*_of(_segments, owner), _segments.c.first_sequence > sequence)
        return self._one_segment(*conditions, order=_segments.c.first_sequence)

    def names_of(self, owner: Owner, limit: int) -> list[str]:
        """Return ids of the oldest segments of a chain, in order."""
        query = sa.select(_segments.c.name).where(*_of(_segments, owner)).order_by(_segments.c.name).limit(limit)
        with self._database.reading() as session:
            return list(session.execute(query).scalars())

    def remove_segment(self, name: str, owner: Owner, events: Iterable[tuple[int, AuditEvent]]) -> None:
        """Remove a segment and its (sequence, event) pairs from the index."""
        rows = [{"at": event.event_time_ns, "bytes": encode(event, sequence)} for sequence, event in events]
        conditions = (_events.c.event_ns == sa.bindparam("at"), _events.c.record == sa.bindparam("bytes"))
        with self._database.session() as session:
            session.execute(_segments.delete().where(_segments.c.name == name))
            session.execute(_events.delete().where(*_of(_events, owner), *conditions), rows)

    def anchors(self) -> dict[str, str]:
        """Return the signed notes of all anchors by id, in order."""
        with self._database.reading() as session:
            rows = session.execute(sa.select(_anchors).order_by(_anchors.c.id)).all()
        return {row.id: row.note for row in rows}

    def save_anchor(self, anchor_id: str, note: str) -> None:
        """Keep an anchor in place of one of the same id."""
        with self._database.session() as session:
            session.execute(_anchors.delete().where(_anchors.c.id == anchor_id))
            session.execute(_anchors.insert().values(id=anchor_id, note=note))

    def ends(self) -> dict[Owner, int]:
        """Return the highest event held of each chain."""
        query = sa.select(_segments.c.service, _segments.c.instance, sa.func.max(_segments.c.last_sequence))
        with self._database.reading() as session:
            rows = session.execute(query.group_by(_segments.c.service, _segments.c.instance)).all()
        return {(service, instance): last for service, instance, last in rows}

    def save_head(self, head: ReportedHead) -> None:
        """Keep a head in place of the one before."""
        service, instance = head.owner
        values = {"sequence": head.sequence, "chain_hash": head.chain_hash, "report_ns": head.report_ns}
        with self._database.session() as session:
            updated = session.execute(_heads.update().where(*_of(_heads, head.owner)).values(**values))
            if not updated.rowcount:  # type: ignore[attr-defined]  # a CursorResult, which the stubs do not say
                session.execute(_heads.insert().values(service=service, instance=instance, **values))

    def heads(self) -> list[ReportedHead]:
        """Return the last reported head of each chain."""
        with self._database.reading() as session:
            rows = session.execute(sa.select(_heads).order_by(_heads.c.service, _heads.c.instance)).all()
        return [ReportedHead((row.service, row.instance), row.sequence, row.chain_hash, row.report_ns) for row in rows]

    def events_before(
        self, position: tuple[int, int] | None, limit: int, *, actor: str, action: str, decision: str
    ) -> list[tuple[int, StoredEvent]]:
        """Return events, newest first, with their row ids.

        Args:
            position: (event_time_ns, row id) to go on behind, or None for the newest.
            limit: the most events.
            actor: only of this one; empty for any, as with ``action`` and ``decision``.
        """
        query = sa.select(_events).order_by(_events.c.event_ns.desc(), _events.c.id.desc()).limit(limit)
        for column, wanted in ((_events.c.actor, actor), (_events.c.action, action), (_events.c.decision, decision)):
            if wanted:
                query = query.where(column == wanted)
        if position is not None:
            query = query.where(sa.tuple_(_events.c.event_ns, _events.c.id) < position)
        with self._database.reading() as session:
            rows = session.execute(query).all()
        return [(row.id, StoredEvent(row.service, row.instance, *decode(row.record))) for row in rows]

    def _one_segment(self, *conditions: Any, order: Any = None) -> HeldSegment | None:
        order = _segments.c.first_sequence.desc() if order is None else order
        query = sa.select(_segments).where(*conditions).order_by(order).limit(1)
        with self._database.reading() as session:
            row = session.execute(query).one_or_none()
        if row is None:
            return None
        roots = row.tree_roots
        return HeldSegment(
            name=row.name,
            owner=(row.service, row.instance),
            first_sequence=row.first_sequence,
            last_sequence=row.last_sequence,
            chain_hash=row.chain_hash,
            tree_roots=tuple(roots[start : start + HASH_BYTES] for start in range(0, len(roots), HASH_BYTES)),
            content_sha256=row.content_sha256,
        )


class ErasureStore:
    """Erasure requests. All methods block; each is one transaction."""

    def __init__(self, database: Database, seal: RegisterSeal | None = None) -> None:
        """Take the database, and what seals subjects in one whose files are not encrypted."""
        self._database = database
        self._seal = seal

    def add(self, request: ErasureRequest) -> ErasureRequest:
        """Keep a request; when there is one of the same ``request_id``, return that instead."""
        with self._database.session() as session:
            query = sa.select(_erasures).where(_erasures.c.request_id == request.request_id)
            row = session.execute(query).one_or_none()
            if row is not None:
                return self._erasure(row)
            session.execute(_erasures.insert().values(**self._values(request)))
        return request

    def save(self, request: ErasureRequest) -> None:
        """Keep a request in place of what it was."""
        with self._database.session() as session:
            session.execute(_erasures.update().where(_erasures.c.id == request.id).values(**self._values(request)))

    def get(self, request_id: str) -> ErasureRequest:
        """Return a request by the last part of its name.

        Raises:
            NotFoundError: there is none.
        """
        with self._database.reading() as session:
            row = session.execute(sa.select(_erasures).where(_erasures.c.id == request_id)).one_or_none()
        if row is None:
            name = f"erasureRequests/{request_id}"
            raise NotFoundError(f"{name} does not exist", metadata={"resource": name})
        return self._erasure(row)

    def page_before(self, position: tuple[int, str] | None, limit: int) -> list[ErasureRequest]:
        """Return requests, newest first, behind a (create_ns, id) position."""
        query = sa.select(_erasures).order_by(_erasures.c.create_ns.desc(), _erasures.c.id.desc()).limit(limit)
        if position is not None:
            query = query.where(sa.tuple_(_erasures.c.create_ns, _erasures.c.id) < position)
        return self._requests(query)

    def running(self) -> list[ErasureRequest]:
        """Return the requests at work, oldest first."""
        query = sa.select(_erasures).where(_erasures.c.state == str(State.RUNNING)).order_by(_erasures.c.create_ns)
        return self._requests(query)

    def _requests(self, query: Any) -> list[ErasureRequest]:
        with self._database.reading() as session:
            rows: Sequence[Any] = session.execute(query).all()
        return [self._erasure(row) for row in rows]

    def _values(self, request: ErasureRequest) -> dict[str, Any]:
        return _erasure_values(self._seal.close(request) if self._seal else request)

    def _erasure(self, row: sa.Row[Any]) -> ErasureRequest:
        kept = _erasure(row._mapping)
        return self._seal.open(kept) if self._seal else kept


def _of(table: sa.Table, owner: Owner) -> tuple[Any, Any]:
    return table.c.service == owner[0], table.c.instance == owner[1]


def _erasure_values(request: ErasureRequest) -> dict[str, Any]:
    return {
        "id": request.id,
        "request_id": request.request_id,
        "domain": request.domain,
        "subject_hash": request.subject_hash,
        "state": str(request.state),
        "stores": encode_stores(request.stores),
        "create_ns": request.create_ns,
        "end_ns": request.end_ns,
        "receipt": request.receipt,
        "signature": request.signature,
    }


def _erasure(values: Any) -> ErasureRequest:
    kept = dict(values) | {"state": State(values["state"]), "stores": decode_stores(values["stores"])}
    return ErasureRequest(**kept)
