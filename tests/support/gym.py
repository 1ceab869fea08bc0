"""A small application of its own for the tests of the whole suite: which members of a gym quit.

Nothing in it is called as in the credit example: other columns, another domain, another label, and a purpose that the
policies learn from an operator while the suite runs. All data is made up from one seed.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from google.protobuf import json_format

from hedgerow.errors import PermissionDeniedError
from hedgerow.features.v1 import features_pb2
from hedgerow.ingestion.v1 import ingestion_pb2
from hedgerow.training.v1 import training_pb2
from tests.support.suite import RunningSuite

PURPOSE = "keep_members"
FAIRNESS = "fairness_audit"
DOMAIN = "gym"
MEMBERS, VISITS = "datasets/gym_members", "datasets/gym_visits"
SERVICE, PROTECTED = "featureServices/gym_quitting", "featureServices/gym_protected"
MODEL = "models/gym_quitting"
DEPLOYMENT = "deployments/gym_quitting"
COUNT = 800
MONTHS = 4
LAST_CUTOFF = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
FIRST_CUTOFF = dt.datetime(2026, 4, 1, tzinfo=dt.UTC)
POLICIES = Path(__file__).resolve().parents[2] / "deploy" / "policies"
# Those who may work for the purpose: not mia.
_WORKERS = ("user/ana", "user/ben", "user/creditapp", "service/features", "service/training", "service/inference")
T = TypeVar("T")

_PSEUDONYM = {"type": "TYPE_STRING", "tags": ["pii"], "pseudonymize": True}
_COMMON = {
    "subject_column": "member",
    "pseudonym_domain": DOMAIN,
    "purposes": [PURPOSE],
    "legal_basis": "contract",
    "retention_days": 365,
}
_MEMBERS = {
    **_COMMON,
    "description": "Members of a gym and whether they quit in May 2026; made up.",
    "key_columns": ["member"],
    "event_time_column": "joined",
    "columns": [
        {"name": "member", **_PSEUDONYM, "purposes": [PURPOSE, FAIRNESS]},
        {"name": "phone", **_PSEUDONYM},
        {"name": "joined", "type": "TYPE_TIMESTAMP", "purposes": [PURPOSE, FAIRNESS]},
        {"name": "fee", "type": "TYPE_FLOAT64", "minimum": 0, "tags": ["sensitive"]},
        {"name": "shift", "type": "TYPE_INT64", "minimum": 1, "maximum": 2, "purposes": [FAIRNESS]},
        {"name": "quit", "type": "TYPE_BOOL", "outcome": True},
    ],
}
_VISITS = {
    **_COMMON,
    "description": "What members did, month by month; made up.",
    "key_columns": ["member"],
    "event_time_column": "month_end",
    "known_time_column": "booked",
    "columns": [
        {"name": "member", **_PSEUDONYM},
        {"name": "month_end", "type": "TYPE_TIMESTAMP"},
        {"name": "booked", "type": "TYPE_TIMESTAMP"},
        {"name": "hours", "type": "TYPE_FLOAT64", "minimum": 0, "maximum": 744},
        {"name": "missed", "type": "TYPE_INT64", "minimum": 0, "nullable": True},
    ],
}
_VIEWS: dict[str, dict[str, Any]] = {
    "gym_visits_recent": {
        "dataset": VISITS,
        "entity_column": "member",
        "features": [
            {
                "name": "hours_last",
                "expression": "arg_max(hours, event_time)",
                "window_months": 3,
                "description": "Hours in the last month",
                "mutable_fraction": 0.05,
            },
            {"name": "hours_mean", "expression": "avg(hours)", "window_months": 3, "description": "Mean hours a month"},
            {"name": "missed", "expression": "sum(missed)", "window_months": 2, "description": "Bookings missed"},
        ],
    },
    "gym_plan": {
        "dataset": MEMBERS,
        "entity_column": "member",
        "features": [{"name": "fee", "expression": "max(fee)", "description": "Monthly fee"}],
    },
}
_PROTECTED_VIEW = {
    "dataset": MEMBERS,
    "entity_column": "member",
    "features": [{"name": "shift", "expression": "max(shift)", "description": "When they come"}],
}
_SPEC = {
    "training_set": "trainingSets/gym_quitting",
    "model": MODEL,
    "world_size": 2,
    "seed": 11,
    "max_epochs": 6,
    "batch_size": 64,
    "learning_rate": 0.01,
    "hidden_sizes": [8],
    "protected_feature_service": PROTECTED,
    "protected_attributes": [
        {"feature": "gym_protected.shift", "display_name": "shift", "group_names": ["morning", "evening"]}
    ],
    "gate_bounds": {
        "min_auc": 0.6,
        "max_ece": 0.5,
        "max_latency_p99_ms": 1000,
        "max_equalized_odds_difference": 1.0,
        "min_robust_auc": 0.5,
        "min_group_evidence": 1,
    },
}


def member(number: int) -> str:
    """Return the id of a member."""
    return f"GYM/{number:05}"


def phone(number: int) -> str:
    """Return the telephone number of a member."""
    return f"+00 555 {number:06}"


def members() -> pa.Table:
    """Return the members, the ids from 0."""
    mood, random = _moods()
    return pa.table(
        {
            "member": [member(number) for number in range(COUNT)],
            "phone": [phone(number) for number in range(COUNT)],
            "joined": _times([dt.datetime(2025, 12, 1, tzinfo=dt.UTC)] * COUNT),
            "fee": np.round(random.uniform(15, 60, COUNT), 2),
            "shift": random.integers(1, 3, COUNT),
            "quit": random.random(COUNT) > 0.15 + 0.8 * mood,
        }
    )


def visits() -> pa.Table:
    """Return a row per member and month, February to May 2026, known one day after the month."""
    mood, random = _moods()
    ends = [dt.datetime(2026, month, 28, tzinfo=dt.UTC) for month in range(2, 2 + MONTHS)]
    hours = np.clip(random.normal(30 * mood[:, None], 4, (COUNT, MONTHS)), 0, 744)
    missed = random.poisson(4 * (1 - mood)[:, None], (COUNT, MONTHS))
    return pa.table(
        {
            "member": [member(number) for number in range(COUNT) for _ in ends],
            "month_end": _times(ends * COUNT),
            "booked": _times([end + dt.timedelta(days=1) for end in ends] * COUNT),
            "hours": hours.ravel(),
            "missed": missed.ravel(),
        }
    )


def visit(number: int, month_end: dt.datetime, booked: dt.datetime, hours: float, missed: int | None = 0) -> pa.Table:
    """Return one row of visits."""
    return pa.table(
        {
            "member": [member(number)],
            "month_end": _times([month_end]),
            "booked": _times([booked]),
            "hours": [float(hours)],
            "missed": pa.array([missed], pa.int64()),
        }
    )


def broken_visits() -> pa.Table:
    """Return two rows that break the contract: negative hours, and no member."""
    end = dt.datetime(2026, 3, 28, tzinfo=dt.UTC)
    nobody = visit(0, end, end, 1.0).set_column(0, "member", pa.array([None], pa.string()))
    return pa.concat_tables([visit(0, end, end, -3.0), nobody])


def _moods() -> tuple[np.ndarray[Any, np.dtype[np.float64]], np.random.Generator]:
    random = np.random.default_rng(20260)
    return random.random(COUNT), random


def _times(values: Sequence[dt.datetime]) -> pa.Array:
    return pa.array(values, pa.timestamp("us", tz="UTC"))


@dataclass(frozen=True)
class Gym:
    """The application as it came to serve.

    Attributes:
        quarantined: rows in quarantine after the first append of visits.
        first_version: the version of that append.
        built: the training set.
        rebuilt: the same again, after a row that happened before the cut-offs became known after them.
        run: the training run.
        version: the promoted model version.
        gates: outcomes of its gates by name.
        materialized: entities in the online store.
    """

    quarantined: int
    first_version: int
    built: features_pb2.TrainingSet
    rebuilt: features_pb2.TrainingSet
    run: training_pb2.TrainingRun
    version: str
    gates: dict[str, int]
    materialized: int


async def open_gym(suite: RunningSuite) -> Gym:
    """Take the whole path from records to a deployment, through the SDK."""
    await _allow_purpose(suite)
    ana, ben = await suite.connect("ana", PURPOSE), await suite.connect("ben", PURPOSE)
    try:
        await ana.ingestion.create_dataset("gym_members", _message(_MEMBERS, ingestion_pb2.Contract()))
        await ana.ingestion.create_dataset("gym_visits", _message(_VISITS, ingestion_pb2.Contract()))
        await ana.ingestion.append(MEMBERS, members())
        appended = await ana.ingestion.append(VISITS, pa.concat_tables([visits(), broken_visits()]))
        await _features(suite, ana)
        built = await _training_set(ben, "gym_quitting")
        # What happened in March and became known in June was not known at either cut-off.
        late = visit(7, dt.datetime(2026, 3, 30, tzinfo=dt.UTC), dt.datetime(2026, 6, 2, tzinfo=dt.UTC), 700.0)
        await ana.ingestion.append(VISITS, late)
        rebuilt = await _training_set(ben, "gym_quitting_again")
        asked = await ana.features.create_materialization(SERVICE, LAST_CUTOFF)
        materialized = await ana.features.wait_for_materialization(asked.name, timeout=60)

        created = await ben.training.create_training_run(_message(_SPEC, training_pb2.TrainingSpec()))
        run = await ben.training.wait_for_training_run(created.name, timeout=180)
        version = await ben.models.promote(run.model_version, "champion")
        await ben.inference.create_deployment("gym_quitting", f"{MODEL}/versions/champion")
        return Gym(
            quarantined=appended.quarantined_row_count,
            first_version=appended.version,
            built=built,
            rebuilt=rebuilt,
            run=run,
            version=version.name,
            gates={gate.name: gate.outcome for gate in version.gates},
            materialized=materialized.entity_count,
        )
    finally:
        await ana.close()
        await ben.close()


async def _allow_purpose(suite: RunningSuite) -> None:
    """Publish the policies with one more purpose for those who work for the gym."""
    operator = await suite.connect("operator")
    try:
        source = "\n".join(file.read_text() for file in sorted(POLICIES.glob("*.cedar")))
        principals = json.loads((POLICIES / "principals.json").read_text())
        for worker in _WORKERS:
            principals[f"spiffe://{suite.config.trust_domain}/{worker}"]["purposes"].append(PURPOSE)
        current = await operator.governance.get_policy_bundle()
        await operator.governance.create_policy_bundle(source, json.dumps(principals), current.etag)
    finally:
        await operator.close()


async def _features(suite: RunningSuite, ana: Any) -> None:
    for view_id, view in _VIEWS.items():
        await ana.features.create_feature_view(view_id, _message(view, features_pb2.FeatureView()))
    await ana.features.create_feature_service(
        "gym_quitting", features_pb2.FeatureService(feature_views=[f"featureViews/{view_id}" for view_id in _VIEWS])
    )
    await ana.features.create_feature_view("gym_protected", _message(_PROTECTED_VIEW, features_pb2.FeatureView()))
    await ana.features.create_feature_service(
        "gym_protected", features_pb2.FeatureService(feature_views=["featureViews/gym_protected"])
    )


async def _training_set(ben: Any, training_set_id: str) -> features_pb2.TrainingSet:
    wanted = training_set_message()
    created = await _once_permitted(lambda: ben.features.create_training_set(training_set_id, wanted))
    done: features_pb2.TrainingSet = await ben.features.wait_for_training_set(created.name, timeout=60)
    return done


def training_set_message() -> features_pb2.TrainingSet:
    """Return what the training set is built from: little use in the coming month, and who quit."""
    wanted = features_pb2.TrainingSet(feature_service=SERVICE)
    first = wanted.cutoffs.add(dataset=VISITS, expression="bool_or(hours < 12)", horizon_months=1)
    first.as_of_time.FromDatetime(FIRST_CUTOFF)
    last = wanted.cutoffs.add(dataset=MEMBERS, expression="bool_or(quit)")
    last.as_of_time.FromDatetime(LAST_CUTOFF)
    return wanted


def training_spec() -> training_pb2.TrainingSpec:
    """Return what the model was trained by."""
    spec: training_pb2.TrainingSpec = _message(_SPEC, training_pb2.TrainingSpec())
    return spec


async def _once_permitted(call: Callable[[], Awaitable[T]]) -> T:
    """Make the first call that needs the new purpose: each service takes the new policies over in its own moment."""
    import asyncio

    for _ in range(100):
        try:
            return await call()
        except PermissionDeniedError as error:
            if error.reason != "PURPOSE_NOT_PERMITTED":
                raise
            await asyncio.sleep(0.1)
    return await call()


def _message(fields: dict[str, Any], message: Any) -> Any:
    return json_format.ParseDict(fields, message)
