"""Seals an artifact, and opens one only when every link from the signature to the last byte holds.

The file is the Tink streaming AEAD (AES256_GCM_HKDF, 1 MiB segments) of the members one after another, each with its
length before it; their names and order are fixed. The associated data is the name of the model version, so the artifact
of one version cannot stand in for another's.

Rules of opening, in order; nothing is parsed before the rule above it holds:

1. the sealed bytes are no larger than ``MAX_ARTIFACT_BYTES``, and their SHA-256 is the registered one;
2. the signature over the manifest's bytes verifies with the key of the stated version;
3. the sealed bytes authenticate under the data key and the name of the version, and hold exactly the members;
4. the manifest inside is the signed one, byte for byte, and is that of this version;
5. the other members have the digests that the manifest states.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import tink
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from tink import proto_keyset_format, secret_key_access, streaming_aead
from tink.proto import aes_gcm_hkdf_streaming_pb2, common_pb2, tink_pb2

from hedgerow.errors import FailedPreconditionError
from libs.artifact.manifest import MAX_MANIFEST_BYTES, Manifest

MANIFEST: Final = "manifest.json"
MODEL: Final = "model.onnx"
WEIGHTS: Final = "weights.safetensors"
MAX_MODEL_BYTES: Final = 64 * 1024 * 1024
MAX_ARTIFACT_BYTES: Final = 2 * MAX_MODEL_BYTES + MAX_MANIFEST_BYTES + 1024 * 1024
_MOST: Final[Mapping[str, int]] = {MANIFEST: MAX_MANIFEST_BYTES, MODEL: MAX_MODEL_BYTES, WEIGHTS: MAX_MODEL_BYTES}

SIGNING_CONTEXT: Final = b"hedgerow-model-v1\n"
"""Says what is signed, so that no signature of another kind can pass for one of a model."""

_KEY_BYTES: Final = 32
_SEGMENT_BYTES: Final = 1024 * 1024
_LENGTH: Final = struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a registry states about a sealed artifact.

    Attributes:
        model_version: ``models/{model}/versions/{version}``.
        artifact_digest: SHA-256 of the sealed bytes, hexadecimal.
        manifest: the signed bytes, less ``SIGNING_CONTEXT``.
        signature: ed25519, over ``signed_bytes(manifest)``.
        key_version: version of the signing key.
    """

    model_version: str
    artifact_digest: str
    manifest: bytes
    signature: bytes
    key_version: int


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact that was verified and opened.

    Attributes:
        manifest: what it is.
        onnx: the graph: input ``features`` (float64, [n, features]), outputs ``probability`` and ``logit``
            (float64, [n, 1]).
        weights: the same model as safetensors.
    """

    manifest: Manifest
    onnx: bytes
    weights: bytes


def signed_bytes(manifest: bytes) -> bytes:
    """Return what the signature of a manifest is over."""
    return SIGNING_CONTEXT + manifest


def members_of(onnx: bytes, weights: bytes) -> dict[str, str]:
    """Return the digests that a manifest states, by member."""
    return {MODEL: hashlib.sha256(onnx).hexdigest(), WEIGHTS: hashlib.sha256(weights).hexdigest()}


def seal_artifact(manifest: bytes, onnx: bytes, weights: bytes, *, data_key: bytes, model_version: str) -> bytes:
    """Return the sealed artifact.

    Args:
        manifest: as ``Manifest.encode`` made it.
        onnx: the graph.
        weights: safetensors.
        data_key: 32 bytes, used for this artifact alone.
        model_version: the name that the artifact is bound to.

    Raises:
        ValueError: a member is larger than allowed.
    """
    sealed = _Kept()
    with _aead(data_key).new_encrypting_stream(sealed, model_version.encode()) as stream:
        for name, content in ((MANIFEST, manifest), (MODEL, onnx), (WEIGHTS, weights)):
            if len(content) > _MOST[name]:
                raise ValueError(f"{name} has {len(content)} bytes; at most {_MOST[name]} are allowed")
            stream.write(_LENGTH.pack(len(content)))
            stream.write(content)
    return sealed.content


def open_artifact(sealed: bytes, evidence: Evidence, *, data_key: bytes, public_keys: Mapping[int, bytes]) -> Artifact:
    """Verify and open a sealed artifact; the rules are those of the module.

    Args:
        sealed: the bytes as they were downloaded.
        evidence: what the registry states about them.
        data_key: 32 bytes.
        public_keys: raw ed25519 keys of the registry's signing key, by version.

    Raises:
        FailedPreconditionError: a rule is broken (ARTIFACT_UNTRUSTED); the metadata's ``rule`` says which.
    """
    if len(sealed) > MAX_ARTIFACT_BYTES:
        raise _untrusted("size", f"it has more than {MAX_ARTIFACT_BYTES} bytes")
    if not hmac.compare_digest(hashlib.sha256(sealed).hexdigest(), evidence.artifact_digest.lower()):
        raise _untrusted("digest", "its bytes are not those that were registered")
    _verify_signature(evidence, public_keys)
    members = _unseal(sealed, evidence.model_version, data_key)
    if not hmac.compare_digest(members[MANIFEST], evidence.manifest):
        raise _untrusted("manifest", "the manifest inside is not the signed one")
    try:
        manifest = Manifest.decode(members[MANIFEST])
    except ValueError as error:
        raise _untrusted("manifest", f"its manifest is malformed: {error}") from error
    if manifest.model_version != evidence.model_version:
        raise _untrusted("manifest", "its manifest is that of another version")
    if manifest.members != members_of(members[MODEL], members[WEIGHTS]):
        raise _untrusted("members", "a member is not the one that the manifest states")
    return Artifact(manifest, members[MODEL], members[WEIGHTS])


def _verify_signature(evidence: Evidence, public_keys: Mapping[int, bytes]) -> None:
    if len(evidence.manifest) > MAX_MANIFEST_BYTES:
        raise _untrusted("size", f"its manifest has more than {MAX_MANIFEST_BYTES} bytes")
    if not evidence.signature:
        raise _untrusted("signature", "it is not signed")
    key = public_keys.get(evidence.key_version)
    if key is None:
        raise _untrusted("signature", "it is signed with an unknown key")
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(evidence.signature, signed_bytes(evidence.manifest))
    except (InvalidSignature, ValueError) as error:
        raise _untrusted("signature", "its signature does not verify") from error


def _unseal(sealed: bytes, model_version: str, data_key: bytes) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    try:
        with _aead(data_key).new_decrypting_stream(io.BytesIO(sealed), model_version.encode()) as stream:
            for name, most in _MOST.items():
                (length,) = _LENGTH.unpack(_exactly(stream.read, _LENGTH.size))
                if length > most:
                    raise _untrusted("size", f"{name} has more than {most} bytes")
                members[name] = _exactly(stream.read, length)
            # Reading to the end also authenticates the last segment, which says that nothing was cut off.
            if stream.read(1):
                raise _untrusted("members", "it holds more than its members")
    except (tink.TinkError, EOFError) as error:
        raise _untrusted("seal", "its bytes do not authenticate under this key and version") from error
    return members


def _exactly(read: Callable[[int], bytes], size: int) -> bytes:
    parts = []
    while size:
        part = read(size)
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class _Kept(io.BytesIO):
    """A buffer whose content outlives its closing: Tink closes the stream it writes to."""

    content = b""

    def close(self) -> None:
        if not self.closed:
            self.content = self.getvalue()
        super().close()


def _aead(data_key: bytes) -> streaming_aead.StreamingAead:
    """Return the Tink primitive of a raw key that the secrets service made."""
    if len(data_key) != _KEY_BYTES:
        raise ValueError(f"the data key must have {_KEY_BYTES} bytes")
    streaming_aead.register()
    parameters = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingParams(
        ciphertext_segment_size=_SEGMENT_BYTES, derived_key_size=_KEY_BYTES, hkdf_hash_type=common_pb2.SHA256
    )
    key = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingKey(version=0, params=parameters, key_value=data_key)
    data = tink_pb2.KeyData(
        type_url="type.googleapis.com/google.crypto.tink.AesGcmHkdfStreamingKey",
        value=key.SerializeToString(),
        key_material_type=tink_pb2.KeyData.SYMMETRIC,
    )
    entry = tink_pb2.Keyset.Key(key_data=data, status=tink_pb2.ENABLED, key_id=1, output_prefix_type=tink_pb2.RAW)
    keyset = tink_pb2.Keyset(primary_key_id=1, key=[entry])
    handle = proto_keyset_format.parse(keyset.SerializeToString(), secret_key_access.TOKEN)
    return handle.primitive(streaming_aead.StreamingAead)


def _untrusted(rule: str, why: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"the artifact is not trusted: {why}", reason="ARTIFACT_UNTRUSTED", metadata={"rule": rule}
    )
