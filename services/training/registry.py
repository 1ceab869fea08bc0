"""The model registry: versions with their evidence, aliases, and sealed artifacts.

Rules:

1. A version is registered whole or not at all: its artifact is durable before the row that names it, and an artifact that
   no row names is removed at the next start.
2. What is signed is the manifest, and it holds the digests of everything that is served.
3. An alias moves only to a version whose gates all passed; "not enough evidence" is not a pass.
4. The data key of an artifact leaves this service wrapped only. Who downloads gets a grant for itself, for a short time.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from safetensors import numpy as safetensors

from hedgerow.errors import DataLossError, FailedPreconditionError, InvalidArgumentError
from libs.artifact import Manifest, members_of, seal_artifact, signed_bytes
from services.training.card import model_card
from services.training.evaluation import Evaluation
from services.training.feature_source import Source
from services.training.gates import not_passed
from services.training.launch import Trained
from services.training.records import VersionRecord, version_name
from services.training.spec import TrainingSpec
from services.training.store import TrainingStore

ARTIFACT_KEY: Final = "keys/training-artifacts"
SIGNING_KEY: Final = "signingKeys/training-models"
CHUNK_BYTES: Final = 1024 * 1024
_ALIAS: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")


class RegistryKeys(Protocol):
    """What the registry needs of the secrets service."""

    async def create_data_key(self, key: str) -> tuple[bytes, bytes]:
        """Return 32 fresh bytes and the same bytes wrapped."""

    async def sign(self, key: str, payload: bytes) -> tuple[bytes, int]:
        """Return the ed25519 signature and the key's version."""


class ArtifactFolder:
    """The folder of sealed artifacts, one file per digest, mode 0600. Blocking."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder

    def put(self, digest: str, sealed: bytes) -> None:
        """Keep an artifact; durable on return, and never seen half written."""
        path = self._path(digest)
        partial = path.with_suffix(".partial")
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(sealed)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def chunks(self, digest: str) -> Iterator[bytes]:
        """Yield an artifact in parts of at most ``CHUNK_BYTES``.

        Raises:
            DataLossError: there is none.
        """
        try:
            with self._path(digest).open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
        except FileNotFoundError:
            raise DataLossError("the sealed artifact is missing", metadata={"digest": digest}) from None

    def keep_only(self, digests: Collection[str]) -> int:
        """Remove every file but those of these digests, and return how many went."""
        wanted = {self._path(digest).name for digest in digests}
        unwanted = [path for path in self._folder.iterdir() if path.name not in wanted]
        for path in unwanted:
            path.unlink(missing_ok=True)
        return len(unwanted)

    def _path(self, digest: str) -> Path:
        return self._folder / f"{digest}.sealed"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A trained and measured model that is to be registered.

    Attributes:
        training_run: ``trainingRuns/{training_run}``.
        spec: of the run.
        source: what it was trained on.
        trained: what it is.
        evaluation: how good it is.
    """

    training_run: str
    spec: TrainingSpec
    source: Source
    trained: Trained
    evaluation: Evaluation


class Registry:
    """Registers and promotes versions."""

    def __init__(
        self, store: TrainingStore, artifacts: ArtifactFolder, keys: RegistryKeys, now_us: Callable[[], int]
    ) -> None:
        """Name the parts.

        Args:
            store: where versions are kept.
            artifacts: where sealed artifacts are kept.
            keys: the secrets service.
            now_us: the time, µs since 1970 UTC.
        """
        self.store = store
        self._artifacts = artifacts
        self._keys = keys
        self._now_us = now_us

    async def register(self, candidate: Candidate) -> str:
        """Seal, sign and keep a version, by which its run has SUCCEEDED, and return its name.

        Raises:
            HedgerowError: as the secrets service does.
        """
        model = candidate.spec.model.partition("/")[2]
        number = await asyncio.to_thread(self.store.next_number, model)
        manifest = _manifest(candidate, version_name(model, number))
        encoded = manifest.encode()
        data_key, wrapped_key = await self._keys.create_data_key(ARTIFACT_KEY)
        signature, key_version = await self._keys.sign(SIGNING_KEY, signed_bytes(encoded))

        def keep() -> VersionRecord:
            trained = candidate.trained
            sealed = seal_artifact(
                encoded, trained.onnx, trained.weights, data_key=data_key, model_version=manifest.model_version
            )
            record = VersionRecord(
                model=model,
                number=number,
                training_run=candidate.training_run,
                manifest=encoded,
                signature=signature,
                key_version=key_version,
                wrapped_key=wrapped_key,
                artifact_digest=hashlib.sha256(sealed).hexdigest(),
                artifact_size=len(sealed),
                gates=candidate.evaluation.gates,
                evaluation=candidate.evaluation.to_json(),
                card=model_card(manifest, candidate.spec, candidate.evaluation),
                create_us=self._now_us(),
            )
            self._artifacts.put(record.artifact_digest, sealed)
            self.store.add_version(record)
            return record

        return (await asyncio.to_thread(keep)).name

    def promote(self, model: str, label: str, alias: str) -> VersionRecord:
        """Point an alias at a version and return the version. Blocking.

        Raises:
            InvalidArgumentError: the alias is malformed.
            NotFoundError: there is no such version.
            FailedPreconditionError: GATE_NOT_PASSED; the metadata names the gates.
        """
        if not _ALIAS.fullmatch(alias):
            wanted = "expected 1 to 63 characters of [a-z0-9-], starting with a letter"
            raise InvalidArgumentError(f"alias: {wanted}", fields={"alias": wanted})
        record = self.store.version(model, label)
        failed = not_passed(record.gates)
        if failed or not record.gates:
            raise FailedPreconditionError(
                f"{record.name} cannot be promoted: {', '.join(failed) or 'no gate'} did not pass",
                reason="GATE_NOT_PASSED",
                metadata={"model_version": record.name, "gates": ",".join(failed)},
            )
        self.store.point_alias(model, alias, record.number)
        return record

    def chunks(self, record: VersionRecord) -> Iterator[bytes]:
        """Yield the sealed artifact of a version. Blocking."""
        return self._artifacts.chunks(record.artifact_digest)

    def sweep(self) -> int:
        """Remove artifacts that no version names, and return how many there were. Blocking."""
        return self._artifacts.keep_only(self.store.artifact_digests())


def _manifest(candidate: Candidate, name: str) -> Manifest:
    source, trained = candidate.source, candidate.trained
    fill = safetensors.load(trained.weights)["encoding.fill"].astype(np.float64)
    return Manifest(
        model_version=name,
        training_run=candidate.training_run,
        training_set=source.training_set,
        training_set_digest=source.digest,
        feature_service=source.feature_service,
        feature_names=source.feature_names,
        feature_descriptions=source.feature_descriptions,
        baseline=tuple(float(value) for value in fill),
        hidden_sizes=candidate.spec.hidden_sizes,
        threshold=candidate.evaluation.threshold,
        gates={gate.name: gate.outcome.value for gate in candidate.evaluation.gates},
        purposes=source.purposes,
        members=members_of(trained.onnx, trained.weights),
    )
