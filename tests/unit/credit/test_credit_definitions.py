"""The definitions of the example, run by run."""

from google.protobuf import json_format

from examples.credit import definitions
from examples.credit.steps.train import weakened
from hedgerow.sdk import definitions as files


def test_the_first_run_has_the_names_of_the_file() -> None:
    assert [each.request for each in definitions.load(1)] == [each.request for each in files.load(definitions.FILE)]


def test_a_later_run_has_names_of_its_own_throughout() -> None:
    loaded = definitions.load(3)
    [run] = definitions.select(loaded, "TrainingRun")
    assert run.request.spec.model == "models/credit_default_3"
    assert run.request.spec.protected_attributes[0].feature == "client_protected_3.sex"
    [deployment] = definitions.select(loaded, "Deployment")
    assert deployment.request.model_version == "models/credit_default_3/versions/champion"
    [dataset, _] = definitions.select(loaded, "Dataset")
    assert (dataset.request.dataset_id, dataset.request.contract.pseudonym_domain) == ("clients_3", "credit_3")
    text = " ".join(json_format.MessageToJson(each.request) for each in loaded)
    for collection in definitions.COLLECTIONS:
        assert text.count(f"{collection}/") == sum(text.count(f"{collection}/{name}_3") for name in _names(collection))


def _names(collection: str) -> list[str]:
    return {
        "datasets": ["clients", "statements"],
        "featureViews": ["statement_behaviour", "client_profile", "client_protected"],
        "featureServices": ["credit_default", "client_protected"],
        "trainingSets": ["credit_default"],
        "models": ["credit_default"],
        "deployments": ["credit_default"],
    }[collection]


def test_protected_attributes_are_never_inputs() -> None:
    views = {
        each.request.feature_view_id: each.request.feature_view
        for each in definitions.select(definitions.load(1), "FeatureView")
    }
    inputs = [each.expression for name in ("statement_behaviour", "client_profile") for each in views[name].features]
    assert not any(word in expression for expression in inputs for word in ("sex", "age)", "marriage"))
    [dataset, _] = definitions.select(definitions.load(1), "Dataset")
    purposes = {column.name: list(column.purposes) for column in dataset.request.contract.columns}
    assert purposes["sex"] == purposes["age"] == ["fairness_audit"]


def test_the_worse_model_has_the_same_gates_and_data() -> None:
    [run] = definitions.select(definitions.load(1), "TrainingRun")
    worse = weakened(run.request.spec)
    assert worse.gate_bounds == run.request.spec.gate_bounds
    assert (worse.training_set, worse.model, worse.seed) == (
        run.request.spec.training_set,
        run.request.spec.model,
        run.request.spec.seed,
    )
    assert worse != run.request.spec
