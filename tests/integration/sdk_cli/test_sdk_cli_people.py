"""What people look at: curves, gates, bars, and exit codes that scripts can trust."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hedgerow.inference.v1 import inference_pb2
from hedgerow.ingestion.v1 import ingestion_pb2
from hedgerow.models.v1 import models_pb2
from hedgerow.training.v1 import training_pb2
from tests.integration.sdk.mirror import Mirror
from tests.integration.sdk_cli.conftest import Run

Training = training_pb2.TrainingRun
Prediction = inference_pb2.Prediction
EPOCHS = [
    training_pb2.EpochMetrics(epoch=n, train_loss=0.7 / n, validation_loss=0.6, validation_auc=0.7 + n / 100)
    for n in range(1, 6)
]


async def test_a_run_is_watched_to_its_end_and_drawn(mirror: Mirror, run: Run) -> None:
    spec = training_pb2.TrainingSpec(max_epochs=30)
    mirror.answers["WatchTrainingRun"] = [
        Training(name="trainingRuns/r", spec=spec, state=Training.STATE_TRAINING, epochs=EPOCHS[:2]),
        Training(
            name="trainingRuns/r", state=Training.STATE_SUCCEEDED, epochs=EPOCHS, model_version="models/m/versions/1"
        ),
    ]
    ran = await run("runs", "watch", "r")
    assert ran.code == 0
    assert ran.out.startswith("validation AUC by epoch\n0.7500 ┤")
    assert "epoch 5: validation AUC 0.7500, validation loss 0.6000, training loss 0.1400" in ran.out
    assert ran.out.endswith("hedgerow models show models/m/versions/1\n")
    assert ran.err.splitlines() == [
        "trainingRuns/r: training, epoch 2, validation AUC 0.7200, loss 0.6000",
        "trainingRuns/r: succeeded, epoch 5, validation AUC 0.7500, loss 0.6000",
    ]


async def test_a_run_that_fails_is_exit_1_with_its_reason(mirror: Mirror, run: Run) -> None:
    mirror.answers["WatchTrainingRun"] = [
        Training(state=Training.STATE_FAILED, error="no positives in the training set")
    ]
    ran = await run("training-runs", "watch", "r")
    assert ran.code == 1
    assert "did not succeed: no positives in the training set" in ran.err


async def test_a_version_shows_its_gates_its_roc_and_its_groups(mirror: Mirror, run: Run) -> None:
    group = {
        "rows": 50,
        "true_positive_rate": 0.5,
        "true_positive_low": 0.4,
        "true_positive_high": 0.6,
        "false_positive_rate": None,
        "false_positive_low": None,
        "false_positive_high": None,
    }
    evaluation = {
        "test_auc": 0.7831,
        "test_roc": [[0.0, 0.0], [0.1, 0.5], [1.0, 1.0]],
        "groups": [{"attribute": "p.age", "display_name": "Age", "groups": [{"name": "under 30", **group}]}],
    }
    version = models_pb2.ModelVersion(
        name="models/m/versions/3",
        training_run="trainingRuns/r",
        purposes=["credit_risk"],
        aliases=["champion"],
        evaluation_json=json.dumps(evaluation),
        gates=[
            {"name": "accuracy", "outcome": "OUTCOME_PASSED", "value": 0.78, "bound": 0.77, "unit": "auc"},
            {"name": "fairness:sex", "outcome": "OUTCOME_NOT_ENOUGH_EVIDENCE"},
            {"name": "robustness", "outcome": "OUTCOME_FAILED", "value": 0.5, "bound": 0.6},
        ],
    )
    mirror.answers["ListModelVersions"] = [models_pb2.ListModelVersionsResponse(model_versions=[version])]
    ran = await run("models", "show", "m")
    assert ran.code == 0
    assert ran.out.startswith("models/m/versions/3 (champion), from trainingRuns/r, for credit_risk\n")
    for shown in (
        "✓ passed",
        "? not enough evidence",
        "✗ failed",
        "ROC on the test split, AUC 0.7831",
        "Age: error rates",
    ):
        assert shown in ran.out
    assert "under 30  ████████████             0.500 (0.400 to 0.600)" in ran.out
    assert "under 30  too few cases" in ran.out
    mirror.answers["GetModelVersion"] = [version]
    assert (await run("models", "show", "m/versions/champion")).out == ran.out


async def test_a_model_without_a_version_says_how_to_get_one(run: Run) -> None:
    ran = await run("models", "show", "m")
    assert ran.code == 1
    assert "hedgerow train -f FILE" in ran.err


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (Prediction.STATUS_OK, 0, ""),
        (Prediction.STATUS_ENTITY_NOT_FOUND, 4, "was it in the data at the last materialization?"),
        (Prediction.STATUS_FEATURES_EXPIRED, 4, "materialize again"),
    ],
)
async def test_predict_and_explain_end_with_4_when_an_entity_has_no_prediction(
    mirror: Mirror, run: Run, status: int, code: int, told: str
) -> None:
    good, other = Prediction(status=Prediction.STATUS_OK, probability=0.25), Prediction(status=status)
    mirror.answers["PredictEntities"] = [inference_pb2.PredictEntitiesResponse(predictions=[good, other])]
    mirror.answers["ExplainEntities"] = [
        inference_pb2.ExplainEntitiesResponse(explanations=[{"prediction": good}, {"prediction": other}])
    ]
    for command in ("predict", "explain"):
        ran = await run(command, "c1", "c2", "--deployment", "d")
        assert (ran.code, bool(ran.out)) == (code, True)
        assert told in ran.err
        assert ran.err.count("\n") == (1 if code else 0)
        in_json = await run(command, "c1", "c2", "--deployment", "d", "--output", "json")
        assert in_json.code == code
        assert json.loads(in_json.out)


async def test_records_are_sent_and_counted(mirror: Mirror, run: Run, tmp_path: Path) -> None:
    contract = ingestion_pb2.Contract(columns=[{"name": "value", "type": ingestion_pb2.Column.TYPE_INT64}])
    mirror.answers["GetDataset"] = [ingestion_pb2.Dataset(name="datasets/d", contract=contract)]
    mirror.answers["AppendRecords"] = [ingestion_pb2.AppendRecordsResponse(version=1, row_count=2)]
    (tmp_path / "d.csv").write_text("value\n1\n2\n")
    ran = await run("ingest", str(tmp_path / "d.csv"), "--dataset", "d")
    assert (ran.code, ran.out) == (0, "2 rows in version 1 of datasets/d, 0 in quarantine\n")
