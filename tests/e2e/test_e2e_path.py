"""The whole path on data of its own: from records to an explained, audited prediction, and one member erased.

The `gym` fixture took the path; each test proves one thing of what is there, on members that no other test touches.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import math
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from tritonclient.grpc import InferInput

from hedgerow.channel import secure_channel
from hedgerow.errors import FailedPreconditionError, HedgerowError, PermissionDeniedError
from hedgerow.features.v1 import features_pb2
from hedgerow.governance.v1 import governance_pb2
from hedgerow.identity import IdentityFolder
from hedgerow.inference.v1 import inference_pb2
from hedgerow.models.v1 import models_pb2
from hedgerow.sdk import Hedgerow, triton_client
from hedgerow.sdk.features import matrix
from hedgerow.secrets.v1 import secrets_pb2
from hedgerow.training.v1 import training_pb2
from libs.audit.verify import SealedSegment, verify_segments
from libs.lake import pseudonym
from libs.rpc.delegation import DelegationSigner
from tests.e2e.calling import OWN, send
from tests.support import gym as app
from tests.support.gym import PURPOSE, Gym, member
from tests.support.suite import RunningSuite

ERASED = 3
LATE = 7
SERVED = [member(number) for number in range(10, 510)]
PRESENT = features_pb2.FeatureBlock.STATUS_PRESENT


@pytest.fixture
async def creditapp(whole_suite: RunningSuite, gym: Gym) -> AsyncIterator[Hedgerow]:
    """The application that serves the gym."""
    async with await whole_suite.connect("creditapp", PURPOSE) as connected:
        yield connected


@pytest.fixture
async def ben(whole_suite: RunningSuite, gym: Gym) -> AsyncIterator[Hedgerow]:
    """The data scientist."""
    async with await whole_suite.connect("ben", PURPOSE) as connected:
        yield connected


@pytest.fixture
async def pia(whole_suite: RunningSuite, gym: Gym) -> AsyncIterator[Hedgerow]:
    """The privacy officer."""
    async with await whole_suite.connect("pia", "erasure") as connected:
        yield connected


# ---- records and features


async def test_rows_that_break_the_contract_are_in_quarantine_with_the_reason(
    whole_suite: RunningSuite, gym: Gym
) -> None:
    assert gym.quarantined == 2
    async with await whole_suite.connect("ana") as ana:
        rows = [row async for row in ana.ingestion.list_quarantined_records(app.VISITS)]
    reasons = {row.row_index: row.reason for row in rows if row.row_index >= app.COUNT * app.MONTHS}
    negative, nobody = (reasons[app.COUNT * app.MONTHS + index] for index in range(2))
    assert "hours" in negative
    assert "-3" not in negative
    assert "member" in nobody


def test_a_row_that_became_known_later_does_not_change_a_training_set(gym: Gym) -> None:
    assert gym.rebuilt.digest == gym.built.digest
    assert gym.rebuilt.row_count == gym.built.row_count == 2 * app.COUNT
    assert gym.rebuilt.sources != gym.built.sources


async def test_the_same_row_counts_once_it_is_known(ben: Hedgerow) -> None:
    mean = []
    for as_of in (app.LAST_CUTOFF, dt.datetime(2026, 6, 15, tzinfo=dt.UTC)):
        block = await ben.features.get_offline_features(app.SERVICE, [member(LATE)], as_of)
        mean.append(matrix(block)[0][list(block.feature_names).index("gym_visits_recent.hours_mean")])
    assert mean[0] < 60 < mean[1]


async def test_bytes_read_online_equal_bytes_computed_offline(gym: Gym, creditapp: Hedgerow, ben: Hedgerow) -> None:
    assert gym.materialized == app.COUNT
    online = await creditapp.features.get_online_features(app.SERVICE, SERVED)
    offline = await ben.features.get_offline_features(app.SERVICE, SERVED, app.LAST_CUTOFF)
    assert set(online.statuses) == {PRESENT}
    assert online.feature_names == offline.feature_names
    assert online.values == offline.values
    assert len(set(matrix(online)[:, 0])) > 400


# ---- training and serving


async def test_the_model_was_trained_on_two_ranks_and_passed_its_gates(gym: Gym, ben: Hedgerow) -> None:
    assert gym.run.state == training_pb2.TrainingRun.STATE_SUCCEEDED
    assert gym.run.spec.world_size == 2
    assert [epoch.epoch for epoch in gym.run.epochs] == list(range(1, len(gym.run.epochs) + 1))
    assert set(gym.gates) == {"accuracy", "calibration", "latency", "robustness", "fairness:shift"}
    assert set(gym.gates.values()) == {models_pb2.GateResult.OUTCOME_PASSED}
    version = await ben.models.get_model_version(f"{app.MODEL}/versions/champion")
    assert version.name == gym.version
    assert version.training_set_digest == gym.built.digest
    assert "gym_protected.shift" not in version.feature_names
    keys = await ben.secrets.get_verification_keys("signingKeys/training-models")
    Ed25519PublicKey.from_public_bytes(keys[version.key_version]).verify(
        version.signature, b"hedgerow-model-v1\n" + version.manifest
    )


async def test_predictions_by_entity_and_by_an_unmodified_tritonclient_agree(
    whole_suite: RunningSuite, creditapp: Hedgerow
) -> None:
    answer = await creditapp.inference.predict(app.DEPLOYMENT, SERVED)
    assert {prediction.status for prediction in answer.predictions} == {inference_pb2.Prediction.STATUS_OK}
    by_entity = np.array([prediction.probability for prediction in answer.predictions])
    block = await creditapp.features.get_online_features(app.SERVICE, SERVED)
    identity = await whole_suite.person("creditapp")
    by_tensor = await asyncio.to_thread(infer, whole_suite, identity, matrix(block))
    assert np.abs(by_entity - by_tensor).max() <= 1e-6
    assert by_entity.std() > 0.05


def infer(suite: RunningSuite, identity: IdentityFolder, features: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    model = app.DEPLOYMENT.partition("/")[2]
    with triton_client(identity, suite.config.address("inference")) as client:
        assert client.is_model_ready(model)
        tensor = InferInput("features", list(features.shape), "FP64").set_data_from_numpy(features)
        result = client.infer(model, [tensor], headers={"hedgerow-purpose": PURPOSE}, client_timeout=30.0)
        found: npt.NDArray[np.float64] = result.as_numpy("probability").reshape(-1)
        return found


async def test_an_entity_that_nobody_knows_gets_no_probability(creditapp: Hedgerow) -> None:
    answer = await creditapp.inference.predict(app.DEPLOYMENT, [SERVED[0], "GYM/99999"])
    known, unknown = answer.predictions
    assert known.status == inference_pb2.Prediction.STATUS_OK
    assert (unknown.status, unknown.probability) == (inference_pb2.Prediction.STATUS_ENTITY_NOT_FOUND, 0.0)


async def test_explanations_are_complete_and_in_words(creditapp: Hedgerow) -> None:
    keys = SERVED[:20]
    predicted = await creditapp.inference.predict(app.DEPLOYMENT, keys)
    answer = await creditapp.inference.explain(app.DEPLOYMENT, keys, top_reasons=2)
    for explanation, prediction in zip(answer.explanations, predicted.predictions, strict=True):
        assert explanation.prediction.probability == pytest.approx(prediction.probability, abs=1e-9)
        moved = explanation.logit - explanation.baseline_logit
        gap = abs(math.fsum(explanation.attributions) - moved)
        assert gap == pytest.approx(explanation.completeness_gap, abs=1e-9)
        assert gap <= 0.01 * max(1.0, abs(moved))
        assert len(explanation.reasons) == 2
        first, second = explanation.reasons
        assert abs(first.attribution) >= abs(second.attribution)
        assert first.text


# ---- on behalf of


async def ask_features(suite: RunningSuite, purpose: str, on_behalf_of: str = "", signer: str = "inference") -> str:
    """Ask features for the gym's features as inference; return ``OK`` or the reason of the refusal."""
    callers = {name: (await suite.workload(name)).load() for name in ("inference", signer)}
    presented, signing = callers["inference"], callers[signer]
    assert presented is not None
    assert signing is not None
    domain = suite.config.trust_domain
    token = DelegationSigner(lambda: signing).token(f"spiffe://{domain}/user/{on_behalf_of}", purpose, 60.0)
    method = OWN["features"][0][0].methods_by_name["GetOnlineFeatures"]
    request = features_pb2.GetOnlineFeaturesRequest(feature_service=app.SERVICE, entity_keys=SERVED[:1])
    channel = secure_channel(suite.config.address("features"), suite.server_name("features"), presented)
    try:
        await send(
            channel, method, [request.SerializeToString()], purpose=purpose, on_behalf_of=token if on_behalf_of else ""
        )
    except HedgerowError as error:
        return f"{error.code_name} {error.reason}"
    finally:
        await channel.close()
    return "OK"


async def test_a_service_gets_what_the_principal_behind_it_may_have_and_no_more(
    whole_suite: RunningSuite, gym: Gym
) -> None:
    refused = "PERMISSION_DENIED PURPOSE_NOT_PERMITTED"
    assert await ask_features(whole_suite, PURPOSE, on_behalf_of="creditapp") == "OK"
    assert await ask_features(whole_suite, PURPOSE, on_behalf_of="mia") == refused
    assert await ask_features(whole_suite, "marketing", on_behalf_of="mia") == refused
    assert await ask_features(whole_suite, PURPOSE, on_behalf_of="nobody") == "PERMISSION_DENIED POLICY_DENIED"
    assert await ask_features(whole_suite, PURPOSE) == "PERMISSION_DENIED POLICY_DENIED"
    # A token counts only in the hands of who signed it.
    stolen = await ask_features(whole_suite, PURPOSE, on_behalf_of="creditapp", signer="training")
    assert stolen == "UNAUTHENTICATED DELEGATION_INVALID"


@pytest.mark.parametrize("purpose", ["", "marketing", PURPOSE])
async def test_marketing_gets_no_prediction_either(whole_suite: RunningSuite, gym: Gym, purpose: str) -> None:
    async with await whole_suite.connect("mia", purpose) as mia:
        for call in (mia.inference.predict, mia.inference.explain):
            with pytest.raises(PermissionDeniedError) as refused:
                await call(app.DEPLOYMENT, SERVED[:1])
            assert refused.value.reason == "PURPOSE_NOT_PERMITTED"


# ---- the trail


async def test_a_prediction_leaves_its_events_at_each_hop(
    whole_suite: RunningSuite, creditapp: Hedgerow, pia: Hedgerow
) -> None:
    await creditapp.inference.explain(app.DEPLOYMENT, SERVED[:1])
    assert (await pia.governance.verify_audit_trail(seal_first=True)).verified
    domain = f"spiffe://{whole_suite.config.trust_domain}"
    app_id = f"{domain}/user/creditapp"

    async def newest(action: str, actor: str) -> governance_pb2.AuditEvent:
        async for event in pia.governance.list_audit_events(action=action, actor=actor, decision="permit"):
            if event.code == "OK":
                return event
        raise AssertionError(f"no event of {action}")

    explained = await newest("inference.ExplainEntities", app_id)
    read = await newest("features.GetOnlineFeatures", f"{domain}/service/inference")
    assert (explained.service, list(explained.resources)) == ("inference", [app.DEPLOYMENT])
    assert (read.service, list(read.resources)) == ("features", [app.SERVICE])
    assert (read.on_behalf_of, read.purpose, explained.purpose) == (app_id, PURPOSE, PURPOSE)
    assert explained.policies


async def test_the_trail_verifies_offline_and_a_changed_byte_is_found(pia: Hedgerow) -> None:
    assert (await pia.governance.verify_audit_trail(seal_first=True)).verified
    segments = [
        SealedSegment(segment.name.partition("/")[2], segment.content, segment.checkpoint)
        async for segment in pia.governance.export_audit_trail()
    ]
    services = {segment.name.partition("-")[0] for segment in segments}
    assert services == set(OWN)
    keys = {
        service: list((await pia.secrets.get_verification_keys(f"signingKeys/{service}-audit")).values())
        for service in services
    }
    report = verify_segments(segments, keys)
    assert report.verified, report.faults
    for service in services:
        chosen = next(index for index, segment in enumerate(segments) if segment.name.startswith(service))
        content = bytearray(segments[chosen].content)
        content[len(content) // 2] ^= 1
        changed = [*segments]
        changed[chosen] = segments[chosen]._replace(content=bytes(content))
        found = verify_segments(changed, keys)
        assert not found.verified
        assert any(segments[chosen].name in str(fault) for fault in found.faults)


# ---- erasure


async def test_an_erased_member_is_nowhere(
    whole_suite: RunningSuite, gym: Gym, creditapp: Hedgerow, ben: Hedgerow, pia: Hedgerow
) -> None:
    words = [member(ERASED), app.phone(ERASED), await pseudonym_of(whole_suite, member(ERASED))]
    before = await ben.features.read_training_set(gym.built.name)
    assert before["entity"].to_pylist().count(words[-1]) == 2
    assert (await creditapp.features.get_online_features(app.SERVICE, words[:1])).statuses[0] == PRESENT

    created = await pia.governance.create_erasure_request(app.DOMAIN, member(ERASED))
    done = await pia.governance.wait_for_erasure(created.name, timeout=120)
    stores = {(store.service, store.store): store for store in done.stores}
    assert {service for service, _ in stores} >= {"ingestion", "features"}
    assert sum(store.remaining_hits for store in done.stores) == 0
    # One row of members, one of visits for each month, two of the training set, one online; and the set built again.
    assert sum(store.rows_erased for store in done.stores) >= 1 + app.MONTHS + 2 + 1
    assert all(store.objects_searched > 0 for key, store in stores.items() if key[1] in ("lake", "trainingSets"))
    await check_receipt(pia, done)

    online = await creditapp.features.get_online_features(app.SERVICE, words[:1])
    assert online.statuses[0] == features_pb2.FeatureBlock.STATUS_NOT_FOUND
    predicted = await creditapp.inference.predict(app.DEPLOYMENT, words[:1])
    assert predicted.predictions[0].status == inference_pb2.Prediction.STATUS_ENTITY_NOT_FOUND
    after = await ben.features.read_training_set(gym.built.name)
    assert after.num_rows == before.num_rows - 2
    assert words[-1] not in after["entity"].to_pylist()
    assert await asyncio.to_thread(files_with, whole_suite.config.folder, words) == []

    async with await whole_suite.connect("ana", PURPOSE) as ana:
        with pytest.raises(FailedPreconditionError) as refused:
            await ana.ingestion.open_snapshot(app.VISITS, gym.first_version)
        assert refused.value.reason == "VERSION_ERASED"
        assert done.name in refused.value.metadata.values()
        latest = await ana.ingestion.open_snapshot(app.VISITS)
        assert latest.version > gym.first_version


async def pseudonym_of(suite: RunningSuite, key: str) -> str:
    """Return a member's pseudonym, with the key that features may read."""
    secrets = secrets_pb2.DESCRIPTOR.services_by_name["SecretsService"]
    identity = (await suite.workload("features")).load()
    assert identity is not None
    async with suite.client(suite.clients / "pseudonyms", identity, "secrets", secrets) as client:
        request = secrets_pb2.GetPseudonymKeyRequest(name=f"pseudonymKeys/{app.DOMAIN}")
        answer = await client.call("GetPseudonymKey", request)
    return pseudonym(answer.key, key)


async def check_receipt(pia: Hedgerow, done: governance_pb2.ErasureRequest) -> None:
    keys = await pia.secrets.get_verification_keys("signingKeys/governance-receipts")
    Ed25519PublicKey.from_public_bytes(keys[max(keys)]).verify(done.signature, done.receipt)
    receipt = json.dumps(json.loads(done.receipt))
    assert done.subject_hash in receipt
    assert member(ERASED) not in receipt


def files_with(folder: Path, words: Sequence[str]) -> list[str]:
    """Return the files of a suite that hold one of the words in clear."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            found += [f"{path.relative_to(folder)}: {word}" for word in words if word.encode() in content]
    return found
