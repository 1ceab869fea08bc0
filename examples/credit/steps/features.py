"""Step 2: feature views, a point-in-time correct training set, and the online store."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from examples.credit.report.model import CutoffFacts, FeatureFacts, FeatureStep
from examples.credit.run import CREDIT_RISK, DemoError, Run
from hedgerow.features.v1 import features_pb2 as pb
from hedgerow.sdk import definitions
from hedgerow.sdk.definitions import Definition
from hedgerow.sdk.features import matrix

COMPARED = 1000
Floats = npt.NDArray[np.float64]
# The late row became known in October, so the end of October is when it shows.
CONTROL_TIME = datetime(2005, 10, 31, tzinfo=UTC)


@dataclass(frozen=True)
class Featured:
    """What the step found, and the training set that the models learn from."""

    facts: FeatureStep
    training_set: str
    rows: pa.Table


async def features(run: Run) -> Featured:
    """Defines the features, builds the training set twice around a late row, and fills the online store."""
    ana, ben = run.caller("ana", CREDIT_RISK), run.caller("ben", CREDIT_RISK)
    for kind in ("FeatureView", "FeatureService"):
        for definition in run.of_kind(kind):
            created = await definitions.apply(ana, definition)
            run.say(f"{created.name}: purposes {', '.join(created.purposes)}")
    [definition] = run.of_kind("TrainingSet")
    built = await definitions.apply(ben, definition)
    rows = await ben.features.read_training_set(built.name)
    run.say(f"{built.name}: {built.row_count:,} rows, digest {built.digest[:12]}…")

    control_before = await _control(run)
    late = await ana.ingestion.append(run.name("datasets", "statements"), run.records.late_statement)
    again = await definitions.apply(ben, _again(definition))
    changed = changed_rows(rows, await ben.features.read_training_set(again.name))
    control = int((~_same(control_before, await _control(run))).sum())
    run.say(
        f"a July row that became known in October (version {late.version}): {changed} training rows changed; "
        f"at the end of October it changes {control} features of its client"
    )
    if not control:
        raise DemoError("the late row changes nothing even when it is known, so the proof proves nothing")

    [definition] = run.of_kind("Materialization")
    written = await definitions.apply(ana, definition)
    run.say(f"{written.entity_count:,} clients in the online store")
    compared, equal = await _compare(run, definition)
    run.say(f"{compared:,} bytes read online and computed offline: {'equal' if equal else 'NOT EQUAL'}")
    facts = FeatureStep(
        features=await _features(run),
        training_set=built.name,
        digest=built.digest,
        cutoffs=_cutoffs(built, rows),
        backfill_changed_rows=changed,
        backfill_control_changed=control,
        entities_online=written.entity_count,
        entities_compared=COMPARED,
        bytes_compared=compared,
        bytes_equal=equal,
    )
    return Featured(facts, built.name, rows)


def changed_rows(before: pa.Table, after: pa.Table) -> int:
    """Returns how many rows of a training set differ, rows that came or went included; NaN equals NaN."""
    keys = ["entity", "as_of_time"]
    before, after = (table.sort_by([(key, "ascending") for key in keys]).combine_chunks() for table in (before, after))
    if before.num_rows != after.num_rows or not all(before[key].equals(after[key]) for key in keys):
        rows = [set(zip(*(table[key].to_pylist() for key in keys), strict=True)) for table in (before, after)]
        return max(len(rows[0] ^ rows[1]), 1)
    changed = np.zeros(before.num_rows, dtype=bool)
    for name in before.column_names:
        if name not in keys:
            changed |= ~_same(before[name].to_numpy(), after[name].to_numpy())
    return int(changed.sum())


def _same(left: Floats, right: Floats) -> npt.NDArray[np.bool_]:
    return np.isclose(left, right, rtol=0, atol=0, equal_nan=True)


def _again(definition: Definition) -> Definition:
    request = pb.CreateTrainingSetRequest()
    request.CopyFrom(definition.request)
    request.training_set_id += "_again"
    return Definition(definition.kind, request, definition.purpose)


async def _control(run: Run) -> Floats:
    """Returns the features of the late row's client once the row is known: shape (features,)."""
    service = run.name("featureServices", "credit_default")
    block = await run.caller("ben", CREDIT_RISK).features.get_offline_features(service, run.clients([1]), CONTROL_TIME)
    values: Floats = matrix(block)[0]
    return values


async def _compare(run: Run, materialization: Definition) -> tuple[int, bool]:
    """Returns how many bytes of features were compared and whether online equals offline."""
    app, ben = run.caller("creditapp", CREDIT_RISK), run.caller("ben", CREDIT_RISK)
    service, keys = materialization.request.feature_service, run.clients(range(1, COMPARED + 1))
    as_of = materialization.request.as_of_time.ToDatetime(UTC)
    online = await app.features.get_online_features(service, keys)
    offline = await ben.features.get_offline_features(service, keys, as_of)
    if pb.FeatureBlock.STATUS_PRESENT not in set(online.statuses) or len(set(online.statuses)) != 1:
        raise DemoError("not every client that was ingested has features in the online store")
    same_names = list(online.feature_names) == list(offline.feature_names)
    return len(online.values), same_names and online.values == offline.values


def _cutoffs(built: pb.TrainingSet, rows: pa.Table) -> list[CutoffFacts]:
    facts = []
    for cutoff in built.cutoffs:
        as_of = cutoff.as_of_time.ToDatetime(UTC)
        labels = rows.filter(pc.equal(rows["as_of_time"], pa.scalar(as_of, rows["as_of_time"].type)))["label"]
        facts.append(CutoffFacts(as_of, cutoff.expression, len(labels), float(np.mean(labels.to_numpy()))))
    return facts


async def _features(run: Run) -> Sequence[FeatureFacts]:
    """Returns the facts of every input feature, in the order of the feature service."""
    ana = run.caller("ana", CREDIT_RISK).features
    service = await ana.get_feature_service(run.name("featureServices", "credit_default"))
    facts = []
    for view_name in service.feature_views:
        view = await ana.get_feature_view(view_name)
        view_id = view_name.partition("/")[2]
        facts += [
            FeatureFacts(
                f"{view_id}.{each.name}", each.expression, each.window_months, each.description, each.mutable_fraction
            )
            for each in view.features
        ]
    return facts
