"""Definition files."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hedgerow.errors import InvalidArgumentError
from hedgerow.sdk import definitions

_TEXT = """
kind: Dataset
dataset_id: shops
contract:
  key_columns: [shop]
  columns:
    - {name: shop, type: TYPE_STRING, tags: [pii]}
---
kind: TrainingSet
purpose: planning
training_set_id: shops
training_set:
  cutoffs:
    - {as_of_time: 2005-08-31T00:00:00Z, dataset: datasets/shops, expression: bool_or(closed)}
"""


def _load(tmp_path: Path, text: str) -> list[definitions.Definition]:
    path = tmp_path / "definitions.yaml"
    path.write_text(text)
    return definitions.load(path)


def test_documents_are_requests_in_order(tmp_path: Path) -> None:
    dataset, training_set = _load(tmp_path, _TEXT)
    assert (dataset.kind, dataset.purpose, dataset.request.dataset_id) == ("Dataset", "", "shops")
    assert dataset.request.contract.columns[0].tags == ["pii"]
    assert training_set.purpose == "planning"
    assert training_set.request.training_set.cutoffs[0].as_of_time.seconds == 1_125_446_400


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kind: Table\n", "document 1: `kind` must be one of Dataset"),
        ("- 1\n", "document 1: `kind` must be"),
        (
            "kind: Dataset\nname: x\n",
            "document 1 (Dataset): the document has no field name; its fields are dataset_id, contract",
        ),
        (
            "kind: Dataset\ncontract:\n  columns: [{name: a, type: TYPE_FLOAT}]\n",
            "contract.columns[0].type: TYPE_FLOAT is unknown; use one of TYPE_STRING, TYPE_INT64, TYPE_FLOAT64",
        ),
        ("kind: Dataset\ncontract: {retention_days: soon}\n", "contract.retention_days: invalid literal"),
        ("kind: Dataset\ndataset_id: [1]\n", "document 1 (Dataset)"),
        ("kind: [\n", "is not YAML"),
    ],
)
def test_a_wrong_document_is_named(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        _load(tmp_path, text)
    assert told in caught.value.message


def test_yaml_cannot_make_objects(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError):
        _load(tmp_path, "kind: !!python/object/apply:os.getcwd []\n")


def test_kinds_select_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    loaded = _load(tmp_path, _TEXT)
    assert [each.kind for each in definitions.select(loaded, ["TrainingSet"])] == ["TrainingSet"]
    assert len(definitions.select(loaded, [])) == 2
    with pytest.raises(InvalidArgumentError, match="kind Shop is unknown"):
        definitions.select(loaded, ["Shop"])


async def test_applying_a_run_twice_asks_for_the_same_run() -> None:
    asked: list[tuple[str, str]] = []

    class Training:
        async def create_training_run(self, spec: Any, *, request_id: str) -> Any:
            asked.append((spec.model, request_id))
            return SimpleNamespace(name="trainingRuns/1")

        async def wait_for_training_run(self, name: str, *, progress: Any) -> Any:
            return SimpleNamespace(name=name)

    class Caller:
        purpose = ""
        training = Training()

        def for_purpose(self, purpose: str) -> "Caller":
            return self

    for seed in (1, 1, 2):
        document = {"kind": "TrainingRun", "spec": {"model": "models/m", "seed": seed}}
        await definitions.apply(Caller(), definitions.parse(document, "x"))  # type: ignore[arg-type]
    assert asked[0] == asked[1]
    assert asked[2] != asked[0]


def test_every_kind_can_be_applied() -> None:
    assert definitions.REQUESTS.keys() == definitions._APPLY.keys()
