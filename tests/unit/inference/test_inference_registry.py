"""From sealed bytes to a served model: signature, gates and size are checked before anything runs."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest

from hedgerow.errors import FailedPreconditionError, ResourceExhaustedError
from libs.artifact import Evidence
from services.inference import registry
from services.inference.batching import BatchLimits
from services.inference.deployment import DeploymentRecord
from services.inference.model_runtime import ModelRuntime, RuntimeLimits
from services.inference.registry import VersionLoader, collect
from tests.unit.inference.small_model import DATA_KEY, FEATURES, PUBLIC_KEY, probabilities, sealed_version

NOW = dt.datetime(2026, 11, 25, tzinfo=dt.UTC)


@pytest.fixture
def load() -> Iterator[VersionLoader]:
    runtime = ModelRuntime(RuntimeLimits(BatchLimits()))
    yield VersionLoader(runtime)
    runtime.close()


def record(evidence: Evidence, public_key: bytes = PUBLIC_KEY) -> DeploymentRecord:
    return DeploymentRecord("credit", evidence, public_key, b"wrapped", NOW)


async def test_verified_version_is_served(load: VersionLoader) -> None:
    sealed, evidence = sealed_version(3)
    model = await load(record(evidence), sealed, DATA_KEY)
    assert model.manifest.feature_service == "featureServices/credit"
    row = np.ones((1, FEATURES))
    answer = await model.predict(row, expires_at=float("inf"))
    assert answer[0, 0] == pytest.approx(probabilities(row, 3)[0], abs=1e-6)


@pytest.mark.parametrize("rule", ["digest", "signature", "seal"])
async def test_untrusted_version_is_refused(load: VersionLoader, rule: str) -> None:
    sealed, evidence = sealed_version()
    key, public_key = DATA_KEY, PUBLIC_KEY
    if rule == "digest":
        sealed = sealed[:-1] + bytes([sealed[-1] ^ 1])
    elif rule == "signature":
        public_key = b"x" * 32
    else:
        key = b"k" * 32
    with pytest.raises(FailedPreconditionError) as caught:
        await load(record(evidence, public_key), sealed, key)
    assert caught.value.reason == "ARTIFACT_UNTRUSTED"
    assert caught.value.metadata["rule"] == rule


async def test_artifact_of_another_version_is_refused(load: VersionLoader) -> None:
    sealed, evidence = sealed_version(1)
    other = dataclasses.replace(evidence, model_version="models/credit/versions/2")
    with pytest.raises(FailedPreconditionError) as caught:
        await load(record(other), sealed, DATA_KEY)
    assert caught.value.reason == "ARTIFACT_UNTRUSTED"


@pytest.mark.parametrize(
    ("gates", "named"),
    [
        ({"accuracy": "PASSED", "fairness:sex": "NOT_ENOUGH_EVIDENCE"}, "fairness:sex"),
        ({"accuracy": "FAILED", "latency": "FAILED"}, "accuracy,latency"),
        ({}, ""),
    ],
)
async def test_version_without_every_gate_passed_is_refused(
    load: VersionLoader, gates: dict[str, str], named: str
) -> None:
    sealed, evidence = sealed_version(gates=gates)
    with pytest.raises(FailedPreconditionError) as caught:
        await load(record(evidence), sealed, DATA_KEY)
    assert caught.value.reason == "GATE_NOT_PASSED"
    assert caught.value.metadata == {"model_version": "models/credit/versions/1", "gates": named}


async def parts(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def test_chunks_are_joined_up_to_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MAX_ARTIFACT_BYTES", 4)
    assert await collect(parts(b"ab", b"", b"cd")) == b"abcd"
    with pytest.raises(ResourceExhaustedError):
        await collect(parts(b"ab", b"cde"))
