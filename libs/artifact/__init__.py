"""The sealed model artifact: what training writes, the registry keeps, and inference reads.

An artifact is one file: ``manifest.json``, ``model.onnx`` and ``weights.safetensors``, sealed together with a data key of
its own and bound to the name of its model version. The manifest is canonical JSON that holds the digests of the other
members; its ed25519 signature travels beside the file. Nothing in it is a pickle, and it has no paths.
"""

from libs.artifact.manifest import MAX_MANIFEST_BYTES, Manifest
from libs.artifact.sealed import (
    MAX_ARTIFACT_BYTES,
    MAX_MODEL_BYTES,
    SIGNING_CONTEXT,
    Artifact,
    Evidence,
    members_of,
    open_artifact,
    seal_artifact,
    signed_bytes,
)

__all__ = [
    "MAX_ARTIFACT_BYTES",
    "MAX_MANIFEST_BYTES",
    "MAX_MODEL_BYTES",
    "SIGNING_CONTEXT",
    "Artifact",
    "Evidence",
    "Manifest",
    "members_of",
    "open_artifact",
    "seal_artifact",
    "signed_bytes",
]
