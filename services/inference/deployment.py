"""Deployments: which model version answers under a name, now and after a restart.

Rules:
- a deployment changes only when the new version is loaded, checked, warmed and kept; until then the former one answers,
  and a version that fails on the way leaves it as it was;
- calls find a deployment in memory alone; SQL is touched when one changes;
- what is kept is the sealed artifact as it came, its signed manifest, and its data key wrapped under a key of this
  service, so a restart needs the secrets service and nothing else; the signature is verified again at every load;
- a name that is known but not loaded is UNAVAILABLE, an unknown one NOT_FOUND;
- replicas share what is kept: what one of them deploys, another loads when it next looks (``follow``), and at once when
  it is asked for a name that it does not know (``catch_up``).
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import fcntl
import os
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from hedgerow.errors import DataLossError, HedgerowError, NotFoundError, ResourceExhaustedError, UnavailableError
from libs.artifact import Evidence
from services.inference.model_runtime import ServedModel

MAX_DEPLOYMENTS: Final = 1000


@dataclass(frozen=True, slots=True)
class DeploymentRecord:
    """A deployment as it is kept.

    Attributes:
        deployment_id: its id, and the model name in the Open Inference Protocol.
        evidence: the version, its signed manifest and the digest of its artifact.
        public_key: the registry's signing key of that version, raw.
        wrapped_key: the artifact's data key, wrapped under a key of this service.
        update_time: when the version began to serve, UTC.
    """

    deployment_id: str
    evidence: Evidence
    public_key: bytes
    wrapped_key: bytes
    update_time: dt.datetime

    @property
    def version(self) -> str:
        """The last part of the model version: its version in the Open Inference Protocol."""
        return self.evidence.model_version.rpartition("/")[2]


@dataclass(frozen=True, slots=True, eq=False)
class Deployment:
    """A deployment that serves."""

    record: DeploymentRecord
    model: ServedModel


class DeploymentStore(Protocol):
    """Where records are kept. Blocking."""

    def put(self, record: DeploymentRecord) -> None:
        """Insert or replace a record; durable on return."""

    def all(self) -> list[DeploymentRecord]:
        """Return every record by id."""

    def mark(self) -> tuple[Hashable, ...]:
        """Return what differs whenever the records do, for much less than reading them."""


class SealedArtifacts:
    """The folder of sealed artifacts, one file per digest, mode 0600; replicas may share it. Blocking."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process that changes the folder out."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(self._folder.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def put(self, digest: str, sealed: bytes) -> None:
        """Keep an artifact; durable on return, and never seen half written."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = self._folder / f"{digest}.tmp"
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(sealed)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._folder / f"{digest}.sealed")
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def get(self, digest: str) -> bytes:
        """Return an artifact.

        Raises:
            DataLossError: there is none.
            UnavailableError: it cannot be read; a folder that is shared comes and goes.
        """
        try:
            return (self._folder / f"{digest}.sealed").read_bytes()
        except FileNotFoundError:
            raise DataLossError("the kept copy of an artifact is missing", metadata={"digest": digest}) from None
        except OSError as error:
            raise UnavailableError(
                "the kept copy of an artifact cannot be read", metadata={"digest": digest}
            ) from error

    def keep_only(self, digests: Collection[str]) -> None:
        """Remove every file but those of these digests."""
        wanted = {f"{digest}.sealed" for digest in digests}
        for path in self._folder.glob("*"):
            if path.name not in wanted:
                path.unlink()


Loader = Callable[[DeploymentRecord, bytes, bytes], Awaitable[ServedModel]]
"""Verifies, opens, checks and warms: (record, sealed artifact, data key in clear) to a model that can serve."""
Unwrap = Callable[[bytes], Awaitable[bytes]]
"""Wrapped data key to data key."""
Failed = Callable[[str, HedgerowError], None]
"""Told of a deployment that does not load, and why."""


class Deployments:
    """All deployments of this process."""

    def __init__(self, store: DeploymentStore, artifacts: SealedArtifacts, load: Loader) -> None:
        self._store = store
        self._artifacts = artifacts
        self._load = load
        self._serving: dict[str, Deployment] = {}
        self._pending: dict[str, DeploymentRecord | None] = {}
        self._broken: dict[str, DeploymentRecord] = {}
        self._seen: tuple[Hashable, ...] | None = None
        # One at a time: loading holds a second copy of a model in memory.
        self._changing = asyncio.Lock()
        self._shared: tuple[Unwrap, Failed] | None = None
        self._next_look: asyncio.Task[None] | None = None

    def find(self, deployment_id: str, version: str = "") -> Deployment:
        """Return a deployment that serves.

        Args:
            deployment_id: its id.
            version: the version it must serve, or empty for whichever it does.

        Raises:
            NotFoundError: there is no such deployment, or it serves another version.
            UnavailableError: it is known and not loaded (yet).
        """
        deployment = self._serving.get(deployment_id)
        if deployment is None:
            if deployment_id in self._pending:
                raise UnavailableError(
                    f"deployment {deployment_id[:63]!r} is not loaded yet; try again",
                    reason="NOT_SERVING",
                    retry_after=1.0,
                )
            raise NotFoundError(f"there is no deployment {deployment_id[:63]!r}; ListDeployments shows what there is")
        if version and version != deployment.record.version:
            raise NotFoundError(
                f"deployment {deployment_id!r} serves version {deployment.record.version}, not {version[:63]!r}"
            )
        return deployment

    def serving(self) -> Sequence[Deployment]:
        """Return the deployments that serve, by id."""
        return [self._serving[key] for key in sorted(self._serving)]

    def pending(self) -> Sequence[str]:
        """Return the ids that are known and not loaded, sorted."""
        return sorted(self._pending)

    def incomplete(self) -> bool:
        """Whether something that is kept does not serve as it is kept, because it did not load."""
        return bool(self._broken)

    def purposes(self, deployment_id: str) -> tuple[str, ...]:
        """Return what a deployment may be used for; nothing for one that does not serve, which refuses every use."""
        deployment = self._serving.get(deployment_id)
        return deployment.model.manifest.purposes if deployment else ()

    def record(self, deployment_id: str) -> DeploymentRecord | None:
        """Return what is kept of a deployment, loaded or not; None when it is unknown or loads for the first time."""
        deployment = self._serving.get(deployment_id)
        return deployment.record if deployment else self._pending.get(deployment_id)

    async def deploy(self, record: DeploymentRecord, sealed: bytes, data_key: bytes) -> Deployment:
        """Serve a version under a name from now on, and after a restart.

        A caller who goes away does not stop it half-way: memory and disk change together or not at all.

        Args:
            record: what to keep.
            sealed: the artifact as it came from the registry.
            data_key: opens it; not kept.

        Raises:
            ResourceExhaustedError: there are too many deployments.
            HedgerowError: as the loader and the store state; the former version goes on serving.
        """
        return await asyncio.shield(asyncio.create_task(self._deploy(record, sealed, data_key)))

    async def _deploy(self, record: DeploymentRecord, sealed: bytes, data_key: bytes) -> Deployment:
        name = record.deployment_id
        async with self._changing:
            is_new = name not in self._serving and name not in self._pending
            if is_new and len(self._serving) + len(self._pending) >= MAX_DEPLOYMENTS:
                raise ResourceExhaustedError(f"there are already {MAX_DEPLOYMENTS} deployments")
            if is_new:
                self._pending[name] = None
            try:
                deployment = Deployment(record, await self._load(record, sealed, data_key))
                await asyncio.to_thread(self._keep, record, sealed)
            except BaseException:
                if is_new:
                    del self._pending[name]
                raise
            # The former model is simply let go: calls that hold it are answered by it, and then it is collected.
            self._serving[name] = deployment
            self._pending.pop(name, None)
            self._broken.pop(name, None)
            return deployment

    def _keep(self, record: DeploymentRecord, sealed: bytes) -> None:
        """Keep the artifact, then the record that names it, then drop what no record names any more."""
        with self._artifacts.locked():
            self._artifacts.put(record.evidence.artifact_digest, sealed)
            self._store.put(record)
            self._artifacts.keep_only({kept.evidence.artifact_digest for kept in self._store.all()})

    # ---- what is kept, at a start and by other replicas

    async def restore(self, unwrap: Unwrap, failed: Failed) -> None:
        """Load what is kept and does not serve yet; one that does not load stays UNAVAILABLE and stops no other.

        Call it at start-up, and again while something is pending: what was missing may have come back.
        """
        async with self._changing:
            await self._load_kept(unwrap, failed, again=True)

    def share(self, unwrap: Unwrap, failed: Failed) -> None:
        """Expect other replicas to change what is kept: from now on ``look`` and ``catch_up`` look there."""
        self._shared = (unwrap, failed)

    async def look(self) -> None:
        """Load what another replica has kept since, if there may be one; calls at the same time share one look.

        A version that did not load is not tried again here, but by ``restore``.
        """
        if self._shared is not None:
            if self._next_look is None:
                self._next_look = asyncio.create_task(self._look(*self._shared))
            await asyncio.shield(self._next_look)

    async def catch_up(self, deployment_id: str) -> None:
        """Look what is kept when a deployment is not known here: another replica may just have made it."""
        if deployment_id not in self._serving:
            await self.look()

    async def _look(self, unwrap: Unwrap, failed: Failed) -> None:
        async with self._changing:
            # Whoever comes from here on may know of something that this look does not see.
            self._next_look = None
            await self._load_kept(unwrap, failed, again=False)

    async def _load_kept(self, unwrap: Unwrap, failed: Failed, *, again: bool) -> None:
        """Load what is kept and does not serve; ``again`` says whether to try what did not load before."""
        mark = await asyncio.to_thread(self._store.mark)
        if mark == self._seen and not again:
            return
        for record in await asyncio.to_thread(self._store.all):
            name = record.deployment_id
            former = self._serving.get(name)
            if former and former.record == record:
                self._broken.pop(name, None)
                continue
            if self._broken.get(name) == record and not again:
                continue
            if former is None:
                self._pending[name] = record
            try:
                sealed = await asyncio.to_thread(self._artifacts.get, record.evidence.artifact_digest)
                model = await self._load(record, sealed, await unwrap(record.wrapped_key))
            except HedgerowError as error:
                self._broken[name] = record
                failed(name, error)
                continue
            self._serving[name] = Deployment(record, model)
            self._pending.pop(name, None)
            self._broken.pop(name, None)
        # Of before the records were read: what changed meanwhile is found at the next look.
        self._seen = mark

    async def close(self) -> None:
        """Answer what is in hand and refuse the rest."""
        self._shared = None
        async with self._changing:
            await asyncio.gather(*(deployment.model.close() for deployment in self._serving.values()))
