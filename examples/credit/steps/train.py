"""Step 3: two models on two local ranks each; the second one is trained badly on purpose."""

from collections.abc import Sequence
from dataclasses import dataclass

from examples.credit.report.model import Epoch
from examples.credit.run import CREDIT_RISK, Run
from hedgerow.training.v1 import training_pb2 as pb


@dataclass(frozen=True)
class Trained:
    """One training run that registered a version."""

    name: str
    model_version: str
    world_size: int
    epochs: Sequence[Epoch]
    seconds: float


async def train(run: Run) -> tuple[Trained, Trained]:
    """Trains the model of the definitions, then one that is the same but for its training."""
    [definition] = run.of_kind("TrainingRun")
    good: pb.TrainingSpec = definition.request.spec
    first = await _train(run, good, "the model")
    second = await _train(run, weakened(good), "a worse one")
    return first, second


def weakened(spec: pb.TrainingSpec) -> pb.TrainingSpec:
    """Returns the spec with a poorer training and the same gates."""
    worse = pb.TrainingSpec()
    worse.CopyFrom(spec)
    worse.max_epochs, worse.learning_rate = 1, 1e-4
    del worse.hidden_sizes[:]
    worse.hidden_sizes.append(2)
    return worse


async def _train(run: Run, spec: pb.TrainingSpec, what: str) -> Trained:
    training = run.caller("ben", CREDIT_RISK).training
    created = await training.create_training_run(spec)
    seen = 0
    with run.console.status(f"  training {what} on {spec.world_size} ranks") as status:

        def progress(state: pb.TrainingRun) -> None:
            nonlocal seen
            if len(state.epochs) > seen:
                seen = len(state.epochs)
                last = state.epochs[-1]
                status.update(f"  training {what}: epoch {last.epoch}, validation AUC {last.validation_auc:.4f}")
            elif state.state == pb.TrainingRun.STATE_GATING:
                status.update(f"  measuring the gates of {what}")

        done = await training.wait_for_training_run(created.name, progress=progress)
    seconds = (done.end_time.ToNanoseconds() - done.create_time.ToNanoseconds()) / 1e9
    best = max(epoch.validation_auc for epoch in done.epochs)
    number = f"{len(done.epochs)} epoch{'' if len(done.epochs) == 1 else 's'}"
    run.say(f"{what}: {number}, best validation AUC {best:.4f}, {done.model_version}, {seconds:.0f} s")
    epochs = [Epoch(each.epoch, each.train_loss, each.validation_loss, each.validation_auc) for each in done.epochs]
    return Trained(done.name, done.model_version, spec.world_size, epochs, seconds)
