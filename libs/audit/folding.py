"""Folds like events into one with a count, the first and last request id and the digest of all. Pure."""

from hashlib import sha256

from libs.audit.event import FOLD_FIELDS, AuditEvent

FoldKey = tuple[object, ...]


def fold_key(event: AuditEvent) -> FoldKey:
    """What two events must share to be folded: everything but the call's own id, time and counts."""
    return event[:FOLD_FIELDS]


class Fold:
    """Like events of one interval. Its memory does not grow with their number."""

    __slots__ = ("_count", "_detail", "_digest", "_first", "_last_request_id")

    def __init__(self, first: AuditEvent) -> None:
        """Begins with one event."""
        self._first = first
        self._count = 0
        self._digest = sha256()
        self._detail: dict[str, int] = {}
        self.add(first)

    def add(self, event: AuditEvent) -> None:
        """Adds an event with the same fold key; counts in its detail are summed."""
        self._count += event.count
        self._last_request_id = event.request_id
        self._digest.update((event.request_id + "\n").encode("utf-8", "backslashreplace"))
        for key, count in event.detail.items():
            self._detail[key] = self._detail.get(key, 0) + count

    def event(self) -> AuditEvent:
        """The event that stands for all."""
        if self._count == self._first.count:
            return self._first
        return self._first._replace(
            count=self._count,
            detail=self._detail,
            last_request_id=self._last_request_id,
            request_ids_sha256=self._digest.hexdigest(),
        )
