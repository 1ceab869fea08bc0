"""One rank of a training run: data-parallel steps in lock-step with the other ranks.

Rules that all ranks keep together:

1. Every rank shuffles with the same seeded generator and takes every ``world_size``-th row of a batch, so the rows of a
   step do not depend on how many ranks share them.
2. Gradients are those of the mean over the whole batch, however unevenly it divides.
3. Before the backward pass of each step the ranks agree (all-reduce MAX, one flag per rank) whether any loss is not a
   number. If one is, all stop at that step, and the event names the ranks and the step. MAX cannot overflow, as a sum of
   finite losses could.
4. Rank 0 measures the validation split, and its decision to stop is broadcast.
5. Any other failure ends the rank, and with it the run; no rank ever skips a step alone.
"""

from __future__ import annotations

import ctypes
import datetime as dt
import json
import math
import multiprocessing.reduction
import os
import signal
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from services.training.encoding import PREFIX, Encoding
from services.training.metrics import auc
from services.training.network import Network, weights_of
from services.training.recipe import Recipe, read_tensors, write_tensors

COLLECTIVE_SECONDS: Final = 60.0
PATIENCE: Final = 5
WARM_UP: Final = 0.1
# Older cut-offs ask an older, maybe another question: they help to find features but count less.
OLDER_CUTOFF_WEIGHT: Final = 0.5
BEAT_SECONDS: Final = 2.0
PEER_LOST_SECONDS: Final = 3.0
_PR_SET_PDEATHSIG: Final = 1


class StoppedTogetherError(Exception):
    """All ranks stopped at the same step; the reason was told."""


class InheritedFile:
    """An open descriptor that survives pickling to a spawned process."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        return _inherited, (multiprocessing.reduction.DupFd(self.descriptor),)


def _inherited(duplicate: Any) -> InheritedFile:
    return InheritedFile(duplicate.detach())


class Events:
    """Events as JSON lines on a pipe; a line is shorter than what a pipe writes in one piece."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def send(self, event: str, **fields: Any) -> None:
        """Write one event."""
        os.write(self._descriptor, json.dumps({"event": event, **fields}).encode() + b"\n")


def train_rank(
    recipe: Recipe, parent: int, meeting: Path, data: InheritedFile, result: InheritedFile, pipe: InheritedFile
) -> None:
    """Train as the rank that the environment names; rank 0 writes the best weights to ``result``.

    Args:
        recipe: how to train.
        parent: process id of the launcher, with which this process ends.
        meeting: file in a private folder, through which the ranks find each other.
        data: memory file with the tensors of ``recipe.for_ranks``.
        result: memory file for the weights.
        pipe: where events go.
    """
    end_with(parent)
    events = Events(pipe.descriptor)
    rank = int(os.environ["RANK"])
    events.send("rank", rank=rank, pid=os.getpid())
    try:
        dist.init_process_group(
            "gloo",
            init_method=meeting.as_uri(),
            rank=rank,
            world_size=recipe.world_size,
            timeout=dt.timedelta(seconds=COLLECTIVE_SECONDS),
        )
        weights = _Trainer(recipe, read_tensors(data.descriptor), events).train()
        if rank == 0:
            write_tensors(result.descriptor, weights)
        dist.barrier()
        dist.destroy_process_group()
    except StoppedTogetherError:
        raise
    except BaseException as error:
        if _is_lost_peer(error):
            # Another rank is the cause: the launcher must see that one's end before it sees this one's.
            time.sleep(PEER_LOST_SECONDS)
        events.send("fault", error=f"rank {rank} failed with {type(error).__name__}")
        raise


def end_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends, however that comes about."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the kernel was told
        os.kill(os.getpid(), signal.SIGKILL)


def _is_lost_peer(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, RuntimeError) and ("gloo" in text or "Connection" in text)


class _Trainee(nn.Module):
    """The network as it is trained: each row is answered by the head of its own cut-off."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor, heads: Tensor) -> Tensor:
        logits = self.network.score(self.network.encode(features))
        chosen: Tensor = logits.gather(1, heads[:, None]).squeeze(1)
        return chosen


class _Trainer:
    """The training of one rank."""

    def __init__(self, recipe: Recipe, tensors: dict[str, Any], events: Events) -> None:
        self._recipe = recipe
        self._events = events
        self._rank, self._world = dist.get_rank(), dist.get_world_size()
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        self._features = torch.from_numpy(tensors["train.features"])
        self._labels = torch.from_numpy(tensors["train.labels"])
        self._heads = torch.from_numpy(tensors["train.heads"])
        self._weights = torch.where(self._heads == 0, 1.0, OLDER_CUTOFF_WEIGHT)
        self._validation = torch.from_numpy(tensors["validation.features"])
        self._validation_labels = torch.from_numpy(tensors["validation.labels"])
        torch.manual_seed(recipe.seed)
        encoding = Encoding(**{name: tensors[PREFIX + name] for name in Encoding.__slots__})
        self._network = Network(encoding, recipe.hidden_sizes, heads=recipe.heads, dropout=recipe.dropout)
        self._model = DistributedDataParallel(_Trainee(self._network), broadcast_buffers=False)
        self._steps = math.ceil(len(self._labels) / recipe.batch_size)
        self._optimizer = torch.optim.AdamW(
            self._network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        total = recipe.max_epochs * self._steps
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, lambda step: _pace(step, total))
        self._shuffle = torch.Generator().manual_seed(recipe.seed)
        torch.manual_seed((recipe.seed + 1 + self._rank) % 2**63)  # dropout differs between ranks
        self._beat = time.monotonic()

    def train(self) -> dict[str, Any]:
        """Return the weights of the epoch with the least validation loss."""
        best, best_loss, best_epoch = weights_of(self._network), math.inf, 0
        for epoch in range(1, self._recipe.max_epochs + 1):
            train_loss = self._epoch(epoch)
            if self._rank == 0:
                loss, area = self._validate()
                if loss < best_loss:
                    best, best_loss, best_epoch = weights_of(self._network), loss, epoch
                self._events.send(
                    "epoch", epoch=epoch, train_loss=train_loss, validation_loss=loss, validation_auc=area
                )
            stop = torch.tensor([int(epoch - best_epoch >= PATIENCE)])
            dist.broadcast(stop, src=0)
            if stop.item():
                break
        return best

    def _epoch(self, epoch: int) -> float:
        """Train one epoch and return the mean loss over the rows of all ranks, each by its weight."""
        self._network.train()
        total = torch.zeros(1, dtype=torch.float64)
        order = torch.randperm(len(self._labels), generator=self._shuffle)
        for step, batch in enumerate(order.tensor_split(self._steps), start=1):
            rows = batch[self._rank :: self._world]
            logits = self._model(self._features[rows], self._heads[rows])
            losses = nn.functional.binary_cross_entropy_with_logits(
                logits, self._labels[rows], weight=self._weights[rows], reduction="sum"
            )
            self._agree(losses, epoch, step)
            self._optimizer.zero_grad()
            # The ranks' gradients are averaged, so each scales its sum to its part of the batch's mean.
            torch.autograd.backward(losses * (self._world / len(batch)))
            self._optimizer.step()
            self._schedule.step()
            total += losses.detach().to(torch.float64)
            self._tell_alive(epoch, step)
        dist.all_reduce(total, op=dist.ReduceOp.SUM)
        return float(total.item() / self._weights.sum().item())

    def _agree(self, losses: Tensor, epoch: int, step: int) -> None:
        """Stop on every rank when the loss of any is not a number."""
        flags = torch.zeros(self._world, dtype=torch.int32)
        flags[self._rank] = int(not torch.isfinite(losses).item())
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        if not flags.any():
            return
        ranks = ", ".join(str(rank) for rank in flags.nonzero().flatten().tolist())
        message = f"the loss is not a number on rank {ranks} in epoch {epoch}, step {step} of {self._steps}"
        if self._rank == 0:
            self._events.send("fault", error=message)
        raise StoppedTogetherError(message)

    def _validate(self) -> tuple[float, float]:
        """Return loss and AUC of the validation split, in evaluation mode."""
        self._network.eval()
        with torch.no_grad():
            logits = self._network(self._validation)
            loss = nn.functional.binary_cross_entropy_with_logits(logits, self._validation_labels.to(logits.dtype))
        scores = np.nan_to_num(logits.numpy(), nan=0.0)
        return float(loss.item()), auc(self._validation_labels.numpy(), scores)

    def _tell_alive(self, epoch: int, step: int) -> None:
        if self._rank == 0 and time.monotonic() - self._beat > BEAT_SECONDS:
            self._beat = time.monotonic()
            self._events.send("step", epoch=epoch, step=step)


def _pace(step: int, total: int) -> float:
    """Return the share of the learning rate for a step: a linear rise, then half a cosine down to 0."""
    rise = max(1, round(total * WARM_UP))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1.0 + math.cos(math.pi * (step - rise) / max(1, total - rise)))
