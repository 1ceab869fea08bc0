"""The sealed artifact: what opens, and that nothing else does."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import pickle
import zipfile

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.errors import FailedPreconditionError
from libs.artifact import (
    MAX_ARTIFACT_BYTES,
    MAX_MODEL_BYTES,
    Artifact,
    Evidence,
    Manifest,
    members_of,
    open_artifact,
    seal_artifact,
    signed_bytes,
)

VERSION = "models/credit/versions/1"
DATA_KEY = bytes(range(32))
SIGNER = Ed25519PrivateKey.from_private_bytes(b"s" * 32)
PUBLIC_KEYS = {3: SIGNER.public_key().public_bytes_raw()}
ONNX, WEIGHTS = b"graph" * 100, b"weights" * 100


def manifest(**changes: object) -> Manifest:
    """A valid manifest."""
    content = Manifest(
        model_version=VERSION,
        training_run="trainingRuns/r1",
        training_set="trainingSets/t1",
        training_set_digest="0" * 64,
        feature_service="featureServices/credit",
        feature_names=("view.a", "view.b"),
        feature_descriptions=("A", "B in €"),
        baseline=(0.0, -1.5),
        hidden_sizes=(8, 4),
        threshold=0.25,
        gates={"accuracy": "PASSED"},
        purposes=("credit_risk",),
        members=members_of(ONNX, WEIGHTS),
    )
    return dataclasses.replace(content, **changes)  # type: ignore[arg-type]


def sealed_with(content: bytes, onnx: bytes = ONNX, weights: bytes = WEIGHTS) -> tuple[bytes, Evidence]:
    """A sealed artifact with its signed evidence."""
    sealed = seal_artifact(content, onnx, weights, data_key=DATA_KEY, model_version=VERSION)
    return sealed, evidence_of(sealed, content)


def evidence_of(sealed: bytes, content: bytes) -> Evidence:
    """Signed evidence for sealed bytes."""
    return Evidence(VERSION, hashlib.sha256(sealed).hexdigest(), content, SIGNER.sign(signed_bytes(content)), 3)


def opened(sealed: bytes, evidence: Evidence, data_key: bytes = DATA_KEY) -> Artifact:
    """Open with the usual keys."""
    return open_artifact(sealed, evidence, data_key=data_key, public_keys=PUBLIC_KEYS)


def refusal(sealed: bytes, evidence: Evidence, data_key: bytes = DATA_KEY) -> str:
    """The rule that refuses."""
    with pytest.raises(FailedPreconditionError) as caught:
        opened(sealed, evidence, data_key)
    assert caught.value.reason == "ARTIFACT_UNTRUSTED"
    return caught.value.metadata["rule"]


def test_round_trip() -> None:
    artifact = opened(*sealed_with(manifest().encode()))
    assert artifact == Artifact(manifest(), ONNX, WEIGHTS)


def test_seals_differ_and_hide_the_content() -> None:
    first, second = sealed_with(manifest().encode())[0], sealed_with(manifest().encode())[0]
    assert first != second
    assert b"graphgraph" not in first
    assert b"credit" not in first


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_flipped_byte_is_found_by_the_digest_and_by_the_seal(data: st.DataObject) -> None:
    sealed, evidence = sealed_with(manifest().encode())
    position = data.draw(st.integers(0, len(sealed) - 1))
    flipped = bytearray(sealed)
    flipped[position] ^= 1 << data.draw(st.integers(0, 7))
    assert refusal(bytes(flipped), evidence) == "digest"
    assert refusal(bytes(flipped), evidence_of(bytes(flipped), evidence.manifest)) == "seal"


@pytest.mark.parametrize("keep", [0, 10, 40, -1])
def test_a_cut_artifact_is_refused(keep: int) -> None:
    sealed, evidence = sealed_with(manifest().encode())
    cut = sealed[:keep]
    assert refusal(cut, evidence_of(cut, evidence.manifest)) == "seal"


def test_a_valid_but_unsigned_artifact_is_refused() -> None:
    sealed, evidence = sealed_with(manifest().encode())
    assert refusal(sealed, dataclasses.replace(evidence, signature=b"")) == "signature"
    assert refusal(sealed, dataclasses.replace(evidence, key_version=4)) == "signature"
    other = Ed25519PrivateKey.from_private_bytes(b"x" * 32).sign(signed_bytes(evidence.manifest))
    assert refusal(sealed, dataclasses.replace(evidence, signature=other)) == "signature"


def test_a_signature_of_the_bare_manifest_is_refused() -> None:
    sealed, evidence = sealed_with(manifest().encode())
    bare = SIGNER.sign(evidence.manifest)
    assert refusal(sealed, dataclasses.replace(evidence, signature=bare)) == "signature"


def test_another_key_or_version_does_not_open() -> None:
    sealed, evidence = sealed_with(manifest().encode())
    assert refusal(sealed, evidence, data_key=b"k" * 32) == "seal"
    assert refusal(sealed, dataclasses.replace(evidence, model_version="models/credit/versions/2")) == "seal"


def test_the_manifest_of_another_version_is_refused() -> None:
    content = manifest(model_version="models/credit/versions/2").encode()
    assert refusal(*sealed_with(content)) == "manifest"


def test_another_manifest_than_the_one_inside_is_refused() -> None:
    sealed, _ = sealed_with(manifest().encode())
    assert refusal(sealed, evidence_of(sealed, manifest(threshold=0.5).encode())) == "manifest"


def test_exchanged_members_are_refused() -> None:
    assert refusal(*sealed_with(manifest().encode(), onnx=b"other")) == "members"
    assert refusal(*sealed_with(manifest().encode(), weights=b"other")) == "members"


class _WritesOnLoad:
    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit('a pickle was loaded')",))


def test_a_pickle_or_an_archive_in_place_of_an_artifact_is_refused_unread() -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../escaped", "x")
    for payload in (pickle.dumps(_WritesOnLoad()), archive.getvalue()):
        evidence = evidence_of(payload, manifest().encode())
        assert refusal(payload, evidence) == "seal"
        assert refusal(payload, dataclasses.replace(evidence, signature=b"")) == "signature"


def test_oversized_artifacts_are_refused_before_they_are_hashed() -> None:
    _, evidence = sealed_with(manifest().encode())
    assert refusal(bytes(MAX_ARTIFACT_BYTES + 1), evidence) == "size"
    assert refusal(b"", dataclasses.replace(evidence, manifest=bytes(2**20 + 1))) == "digest"


def test_oversized_members_are_not_sealed() -> None:
    with pytest.raises(ValueError, match="at most"):
        sealed_with(manifest().encode(), onnx=bytes(MAX_MODEL_BYTES + 1))


def test_a_data_key_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        seal_artifact(b"", b"", b"", data_key=b"short", model_version=VERSION)


def test_the_manifest_is_canonical_json() -> None:
    encoded = manifest().encode()
    assert Manifest.decode(encoded) == manifest()
    assert encoded == json.dumps(json.loads(encoded), sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(ValueError, match="canonical"):
        Manifest.decode(encoded.replace(b":", b": ", 1))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format": "other"}, "format"),
        ({"extra": 1}, "differ"),
        ({"hidden_sizes": [1.5]}, "hidden_sizes"),
        ({"hidden_sizes": [True]}, "hidden_sizes"),
        ({"threshold": "0.5"}, "threshold"),
        ({"gates": {"accuracy": 1}}, "gates"),
        ({"baseline": [0.0]}, "different numbers"),
        ({"feature_names": []}, "different numbers"),
        ({"baseline": [0.0, float("inf")]}, "not finite"),
        ({"members": {"model.onnx": "short"}}, "SHA-256"),
    ],
)
def test_malformed_manifests_are_refused(change: dict[str, object], complaint: str) -> None:
    content = json.loads(manifest().encode()) | change
    with pytest.raises(ValueError, match=complaint):
        Manifest.decode(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


def test_a_manifest_with_a_number_that_is_not_finite_is_not_written() -> None:
    with pytest.raises(ValueError, match=r"JSON|finite"):
        manifest(threshold=float("nan")).encode()
