"""`hedgerow train`, `promote`, `deploy`, `predict` and `explain`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from hedgerow.cli import output, progress
from hedgerow.cli.resources import full_name
from hedgerow.cli.session import Settings, pass_settings
from hedgerow.errors import InvalidArgumentError
from hedgerow.sdk import Hedgerow, definitions

# Exit code where the call succeeded and an entity has no prediction.
NO_ANSWER = 4


@click.command()
@click.option(
    "-f", "--file", "path", required=True, type=click.Path(exists=True, dir_okay=False), help="Definition file."
)
@click.option("--watch", is_flag=True, help="Wait for the end and show progress.")
@pass_settings
def train(settings: Settings, path: str, watch: bool) -> None:
    """Starts the training runs of a definition file; what was started before is not trained again."""
    runs = definitions.select(definitions.load(Path(path)), ["TrainingRun"])
    if not runs:
        raise InvalidArgumentError(f"{path} has no document of kind TrainingRun")

    async def work(caller: Hedgerow) -> list[Any]:
        ended = []
        for definition in runs:
            if watch:
                with progress.work(definition.request.spec.model, settings.as_json) as told:
                    ended.append(await definitions.apply(caller, definition, told))
            else:
                asking = caller.for_purpose(definition.purpose or caller.purpose)
                ended.append(await definitions.start_training_run(asking, definition.request))
        return ended

    rows = [output.as_dict(run) for run in settings.run(work)]
    output.show(rows, ["name", "state", "model_version"], settings.as_json)


@click.command()
@click.argument("version")
@click.option("--alias", default="champion", show_default=True, help="The alias to point at the version.")
@pass_settings
def promote(settings: Settings, version: str, alias: str) -> None:
    """Points an alias at VERSION (models/NAME/versions/N), if each of its gates passed."""
    promoted = settings.run(lambda caller: caller.models.promote(full_name("models", version), alias))
    if settings.as_json:
        output.print_json(output.as_dict(promoted))
    else:
        click.echo(f"{promoted.name} is now {alias}")


@click.command()
@click.argument("deployment")
@click.option("--version", required=True, help="The version to serve: models/NAME/versions/N, or an alias for N.")
@pass_settings
def deploy(settings: Settings, deployment: str, version: str) -> None:
    """Serves a model version as DEPLOYMENT."""
    id_ = deployment.removeprefix("deployments/")
    served = settings.run(lambda caller: caller.inference.create_deployment(id_, full_name("models", version)))
    output.show_one(output.as_dict(served), settings.as_json, ["feature_names"])


@click.command()
@click.argument("entities", nargs=-1, required=True)
@click.option("--deployment", required=True, help="The deployment to ask.")
@pass_settings
def predict(settings: Settings, entities: tuple[str, ...], deployment: str) -> None:
    """Predicts for ENTITIES, named by their keys; the exit code is 4 when one of them has no prediction."""
    name = full_name("deployments", deployment)
    response = settings.run(lambda caller: caller.inference.predict(name, entities))
    form = output.as_dict(response)
    rows = [{"entity": entity} | answer for entity, answer in zip(entities, form["predictions"], strict=True)]
    for row in rows:
        if row["status"] != "STATUS_OK":
            row["probability"] = None
    if settings.as_json:
        output.print_json({"model_version": form["model_version"], "predictions": rows})
    else:
        output.show(rows, ["entity", "probability", "status"], as_json=False)
    _end([row["status"] for row in rows])


@click.command()
@click.argument("entities", nargs=-1, required=True)
@click.option("--deployment", required=True, help="The deployment to ask.")
@click.option("--reasons", type=click.IntRange(1, 50), default=5, show_default=True, help="Reasons for each entity.")
@pass_settings
def explain(settings: Settings, entities: tuple[str, ...], deployment: str, reasons: int) -> None:
    """Explains predictions for ENTITIES, named by their keys; the exit code is 4 when one has no prediction."""
    name = full_name("deployments", deployment)
    response = settings.run(lambda caller: caller.inference.explain(name, entities, top_reasons=reasons))
    form = output.as_dict(response)
    if settings.as_json:
        rows = [{"entity": entity} | answer for entity, answer in zip(entities, form["explanations"], strict=True)]
        output.print_json({"model_version": form["model_version"], "explanations": rows})
    else:
        for entity, explanation in zip(entities, response.explanations, strict=True):
            _show_explanation(entity, explanation)
    _end([answer["prediction"]["status"] for answer in form["explanations"]])


def _end(statuses: Sequence[str]) -> None:
    """Ends with the exit code 4, and says the way out, when an entity has no prediction."""
    without = [status for status in statuses if status != "STATUS_OK"]
    if not without:
        return
    told = f"hedgerow: {len(without)} of {len(statuses)} without a prediction"
    if "STATUS_ENTITY_NOT_FOUND" in without:
        told += "; not found: no values online under that key; was it in the data at the last materialization?"
    if "STATUS_FEATURES_EXPIRED" in without:
        told += "; expired: the values are older than their time to live; materialize again"
    click.echo(told, err=True)
    raise click.exceptions.Exit(NO_ANSWER)


def _show_explanation(entity: str, explanation: Any) -> None:
    prediction = explanation.prediction
    if prediction.status != prediction.STATUS_OK:
        status = prediction.DESCRIPTOR.fields_by_name["status"].enum_type.values_by_number[prediction.status].name
        click.echo(f"{entity}: {output.text(status)}")
        return
    click.echo(f"{entity}: probability {prediction.probability:.4f}")
    for reason in explanation.reasons:
        click.echo(f"  {reason.attribution:+.3f}  {reason.text}")
    click.echo(f"  the attributions add up within {explanation.completeness_gap:.2g} (logits)")
