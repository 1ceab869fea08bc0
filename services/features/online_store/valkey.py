"""The online store in Valkey (or Redis): shared by the replicas of the service.

The server sees keyed hashes and sealed bytes, the same as LMDB's, and nothing else: so it has a database to itself, and
what it holds can be compared with LMDB byte by byte. What is newer is decided here, because only here can a value be
opened, and takes effect there by a script that replaces a value only if it is still the one that was compared.

An erasure deletes the keys and has the server rewrite what it keeps on disk. Freed memory of the server is not searched;
what may lie in it is sealed (``docs/adr/0013-distributed-stores.md``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from hedgerow.errors import AbortedError, FailedPreconditionError, ResourceExhaustedError, UnavailableError
from services.features.online_store import Erased, StoredView, Values
from services.features.online_store.sealing import Sealing, block_of, pack, stamp
from services.features.online_store.valkey_address import ValkeyAddress

MAX_CONNECTIONS = 16
_BATCH = 500
_ROUNDS = 50
_REWRITE_SECONDS = 120.0
_REWRITE_POLL_SECONDS = 0.02
# Format, schema version and nonce: no two sealed values share them, so they stand for the value.
_MARK_BYTES = 21
# Returns the places of the values that were no longer what was compared. ARGV: mark, new value, mark, new value …
_REPLACE = """
local lost = {}
for place, key in ipairs(KEYS) do
    if redis.call('GETRANGE', key, 0, 20) == ARGV[2 * place - 1] then
        redis.call('SET', key, ARGV[2 * place])
    else
        lost[#lost + 1] = place
    end
end
return lost
"""


class ValkeyOnlineStore:
    """An ``OnlineStore`` on a server; see ``ValkeyAddress`` for how it is reached."""

    def __init__(self, address: ValkeyAddress, sealing: Sealing) -> None:
        """Connect.

        Raises:
            UnavailableError: the server does not answer or takes no password of ours.
            FailedPreconditionError: the server drops values when it is full.
        """
        self._sealing = sealing
        # Waits for a free connection, for as long as a call may.
        pool = redis.BlockingConnectionPool(  # type: ignore[no-untyped-call]
            connection_class=redis.SSLConnection,
            max_connections=MAX_CONNECTIONS,
            timeout=address.timeout_seconds,
            retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), 2),
            **address.connection(),
        )
        self._client = redis.Redis.from_pool(pool)
        self._replace = self._client.register_script(_REPLACE)
        with _typed():
            policy = str(self._info("memory").get("maxmemory_policy", ""))
        if policy.startswith("allkeys"):
            self._client.close()
            raise FailedPreconditionError(
                f"the online store's server drops values when it is full ({policy}); set maxmemory-policy noeviction"
            )

    def write(self, view: StoredView, entities: Sequence[str], values: Values, as_of_us: int) -> int:
        """See ``OnlineStore.write``."""
        keys = self._sealing.entity_keys(view.view_id, entities)
        plains = pack(values.event_us, as_of_us, values.values)
        with _typed():
            return sum(
                self._write_batch(view, keys[start : start + _BATCH], plains[start : start + _BATCH])
                for start in range(0, len(keys), _BATCH)
            )

    def read(self, view: StoredView, entities: Sequence[str]) -> Values:
        """See ``OnlineStore.read``."""
        keys = self._sealing.entity_keys(view.view_id, entities)
        with _typed():
            stored = self._get(keys)
        return block_of(self._sealing.open(view, keys, stored), view.width)

    def erase(self, view_ids: Sequence[str], entity: str) -> Erased:
        """See ``OnlineStore.erase``; objects are the files that the server keeps."""
        keys = [self._sealing.entity_keys(view_id, [entity])[0] for view_id in view_ids]
        with _typed():
            removed = int(self._client.delete(*keys)) if keys else 0
            rewritten = self._rewrite_files()
            remaining = int(self._client.exists(*keys)) if keys else 0
        return Erased(values=removed, objects_searched=1 + rewritten, objects_rewritten=rewritten, remaining=remaining)

    def count(self) -> int:
        """Return how many values there are."""
        with _typed():
            return int(self._client.dbsize())

    def close(self) -> None:
        """Close every connection."""
        self._client.close()
        self._client.connection_pool.disconnect()

    def _get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return cast("list[bytes | None]", self._client.mget(keys)) if keys else []

    def _write_batch(self, view: StoredView, keys: Sequence[bytes], plains: Sequence[bytes]) -> int:
        """Write rows of one batch and return how many became the newest; those that another writer beat try again."""
        rows = list(zip(keys, plains, strict=True))
        newest = 0
        for _ in range(_ROUNDS):
            distinct = list(dict.fromkeys(key for key, _ in rows))
            marks, changed, counts = self._decide(view, rows, distinct)
            sealed = [(key, marks[key], self._sealing.seal(view, key, plain)) for key, plain in changed.items()]
            arguments = [part for _, mark, value in sealed for part in (mark, value)]
            places = (
                cast("list[int]", self._replace(keys=[key for key, _, _ in sealed], args=arguments)) if sealed else []
            )
            lost = {sealed[place - 1][0] for place in places}
            newest += sum(count for key, count in counts.items() if key not in lost)
            if not lost:
                return newest
            rows = [row for row in rows if row[0] in lost]
        raise AbortedError("other writers kept changing the same entities; materialize again")

    def _decide(
        self, view: StoredView, rows: Sequence[tuple[bytes, bytes]], distinct: Sequence[bytes]
    ) -> tuple[dict[bytes, bytes], dict[bytes, bytes], dict[bytes, int]]:
        """Compare rows with what is stored, as if they were put one after the other.

        Returns:
            By key: the mark of the stored value, the plaintext to store, and how many rows became the newest.
        """
        stored = self._get(distinct)
        marks = {key: (value or b"")[:_MARK_BYTES] for key, value in zip(distinct, stored, strict=True)}
        held = dict(zip(distinct, self._sealing.open(view, distinct, stored), strict=True))
        changed: dict[bytes, bytes] = {}
        counts: dict[bytes, int] = {}
        for key, plain in rows:
            present = held[key]
            if present is None or stamp(present) <= stamp(plain):
                held[key] = changed[key] = plain
                counts[key] = counts.get(key, 0) + 1
        return marks, changed, counts

    def _info(self, section: str) -> dict[str, Any]:
        return self._client.info(section)

    def _rewrite_files(self) -> int:
        """Have the server write its files anew from what it holds, and return how many kinds of files it keeps."""
        has_log = bool(self._info("persistence").get("aof_enabled"))
        if has_log:
            self._renew(self._client.bgrewriteaof, "aof_rewrite", "aof_last_bgrewrite_status")
        try:
            # Always: the server does not say whether there is a snapshot from before its last start.
            self._renew(self._client.bgsave, "rdb_bgsave", "rdb_last_bgsave_status")
        except _NotOfferedError:
            return int(has_log)  # a provider took the command away; its snapshots are backups
        return has_log + 1

    def _renew(self, start: Callable[[], object], kind: str, status: str) -> None:
        """Start what writes a file anew, after one that is under way, which began before the keys were deleted.

        Raises:
            FailedPreconditionError: the server does not let this user do so.
            UnavailableError: it did not succeed.
        """
        deadline = time.monotonic() + _REWRITE_SECONDS
        started = False
        while time.monotonic() < deadline:
            persistence = self._info("persistence")
            if persistence[f"{kind}_in_progress"] or persistence.get(f"{kind}_scheduled"):
                time.sleep(_REWRITE_POLL_SECONDS)
            elif not started:
                started = _started(start)
                time.sleep(_REWRITE_POLL_SECONDS)
            elif persistence[status] == "ok":
                return
            else:
                break
        raise UnavailableError("the online store's server cannot write its files anew; look at its log and try again")


class _NotOfferedError(FailedPreconditionError):
    """The server does not know the command."""


def _started(start: Callable[[], object]) -> bool:
    demand = "an erasure needs BGREWRITEAOF and BGSAVE; let the online store's user run them"
    try:
        start()
    except redis.exceptions.NoPermissionError as error:
        raise FailedPreconditionError(demand) from error
    except redis.exceptions.ResponseError as error:
        if "unknown command" in str(error).lower():
            raise _NotOfferedError(demand) from error
        return False  # another client was first to start one
    return True


@contextmanager
def _typed() -> Iterator[None]:
    """Turn what the client raises into typed errors; none of them holds a value."""
    try:
        yield
    except redis.exceptions.OutOfMemoryError as error:
        raise ResourceExhaustedError("the online store is full; raise the maxmemory of its server") from error
    except redis.exceptions.AuthenticationError as error:
        raise UnavailableError(
            "the online store's password cannot be read, or its server refuses it or the user"
        ) from error
    except redis.exceptions.RedisError as error:
        raise UnavailableError("the online store does not answer", metadata={"dependency": "online store"}) from error
