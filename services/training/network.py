"""The network in torch: raw features in, calibrated logits out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from services.training.encoding import Encoding


class Network(nn.Module):
    """Encoding, hidden layers (SiLU, dropout), one logit per head, calibration.

    A head answers the question of one label cut-off: cut-offs may define their outcomes differently, such as a missed
    payment and a default, so they share the hidden layers but not the last one. Head 0 is that of the newest cut-off.
    The encoding is computed in float64, because raw values may be large against the width of a segment; the layers are
    float32.
    """

    encoding_fill: Tensor
    encoding_feature: Tensor
    encoding_low: Tensor
    encoding_inverse_width: Tensor
    encoding_mean: Tensor
    encoding_missing: Tensor
    calibration: Tensor

    def __init__(
        self, encoding: Encoding, hidden_sizes: Sequence[int], *, heads: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        for name, array in encoding.tensors().items():
            self.register_buffer(name.replace(".", "_"), torch.from_numpy(np.ascontiguousarray(array)))
        sizes = [encoding.width, *hidden_sizes, heads]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("calibration", torch.tensor([1.0, 0.0], dtype=torch.float64))

    def encode(self, features: Tensor) -> Tensor:
        """Return the network's inputs, float32 [n, width], for raw features, float64 [n, f] with NaN where missing."""
        absent = torch.isnan(features)
        filled = torch.where(absent, self.encoding_fill, features)
        by_segment = filled.index_select(1, self.encoding_feature)
        risen = ((by_segment - self.encoding_low) * self.encoding_inverse_width).clamp(0.0, 1.0) - self.encoding_mean
        indicators = absent.index_select(1, self.encoding_missing).to(risen.dtype)
        return torch.cat([risen, indicators], dim=1).to(torch.float32)

    def score(self, encoded: Tensor) -> Tensor:
        """Return logits before calibration, float32 [n, heads], for encoded features."""
        for layer in self.layers[:-1]:
            encoded = self.dropout(nn.functional.silu(layer(encoded)))
        logits: Tensor = self.layers[-1](encoded)
        return logits

    def forward(self, features: Tensor) -> Tensor:
        """Return calibrated logits of the newest cut-off, float64 [n], for raw features, float64 [n, f]."""
        logits = self.score(self.encode(features))[:, 0].to(torch.float64)
        calibrated: Tensor = logits * self.calibration[0] + self.calibration[1]
        return calibrated


def weights_of(network: Network) -> dict[str, npt.NDArray[np.generic]]:
    """Return the trained weights of head 0 with the encoding and the calibration, by name."""
    weights = {
        name.replace("encoding_", "encoding."): tensor.detach().cpu().numpy().copy()
        for name, tensor in network.state_dict().items()
    }
    last = len(network.layers) - 1
    for part in ("weight", "bias"):
        weights[f"layers.{last}.{part}"] = weights[f"layers.{last}.{part}"][:1]
    return weights


def network_from(weights: dict[str, npt.NDArray[np.generic]]) -> Network:
    """Return the network, in evaluation mode, of weights as ``weights_of`` gives them.

    Raises:
        KeyError, RuntimeError: they are not such weights.
    """
    names = ("fill", "feature", "low", "inverse_width", "mean", "missing")
    encoding = Encoding(*(weights[f"encoding.{name}"] for name in names))  # type: ignore[arg-type]
    layers = sum(1 for name in weights if name.startswith("layers.") and name.endswith(".bias"))
    network = Network(encoding, [len(weights[f"layers.{i}.bias"]) for i in range(layers - 1)])
    network.load_state_dict(
        {name.replace("encoding.", "encoding_"): torch.from_numpy(array) for name, array in weights.items()}
    )
    return network.eval()
