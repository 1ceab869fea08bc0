"""A model version on its way from the registry into service: received, verified, judged, loaded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from hedgerow.errors import FailedPreconditionError, ResourceExhaustedError
from libs.artifact import MAX_ARTIFACT_BYTES, Artifact, Manifest, open_artifact
from services.inference.deployment import DeploymentRecord
from services.inference.model_runtime import ModelRuntime, ServedModel

_PASSED: Final = "PASSED"


async def collect(chunks: AsyncIterator[bytes]) -> bytes:
    """Return a sealed artifact from its chunks.

    Raises:
        ResourceExhaustedError: it is larger than an artifact may be.
    """
    sealed = bytearray()
    async for chunk in chunks:
        if len(sealed) + len(chunk) > MAX_ARTIFACT_BYTES:
            raise ResourceExhaustedError(
                f"the artifact has more than {MAX_ARTIFACT_BYTES} bytes", reason="MESSAGE_TOO_LARGE"
            )
        sealed += chunk
    return bytes(sealed)


class VersionLoader:
    """Loads kept or fresh versions; the same rules hold for both."""

    def __init__(self, runtime: ModelRuntime) -> None:
        self._runtime = runtime

    async def __call__(self, record: DeploymentRecord, sealed: bytes, data_key: bytes) -> ServedModel:
        """Return a model that can serve; see ``deployment.Loader``.

        Raises:
            FailedPreconditionError: ARTIFACT_UNTRUSTED, GATE_NOT_PASSED, or a graph that cannot be served.
        """
        artifact = await asyncio.to_thread(_opened, record, sealed, data_key)
        require_gates(artifact.manifest)
        return await self._runtime.load(artifact.manifest, artifact.onnx)


def _opened(record: DeploymentRecord, sealed: bytes, data_key: bytes) -> Artifact:
    public_keys = {record.evidence.key_version: record.public_key}
    return open_artifact(sealed, record.evidence, data_key=data_key, public_keys=public_keys)


def require_gates(manifest: Manifest) -> None:
    """Check the signed outcomes: each gate passed, and there was at least one.

    Raises:
        FailedPreconditionError: GATE_NOT_PASSED; the metadata names the gates that did not pass.
    """
    failed = sorted(name for name, outcome in manifest.gates.items() if outcome != _PASSED)
    if failed or not manifest.gates:
        raise FailedPreconditionError(
            f"{manifest.model_version} did not pass every gate: {', '.join(failed) or 'none was measured'}",
            reason="GATE_NOT_PASSED",
            metadata={"model_version": manifest.model_version, "gates": ",".join(failed)},
        )
