"""The manifest of a model version: canonical JSON, so that equal manifests are equal bytes."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from dataclasses import dataclass
from typing import Any, Final

FORMAT: Final = "hedgerow-model-v1"
MAX_MANIFEST_BYTES: Final = 1024 * 1024
MAX_FEATURES: Final = 512
_DIGEST_LENGTH: Final = 64


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a model version is, and what its artifact holds.

    Attributes:
        model_version: ``models/{model}/versions/{version}``.
        training_run: ``trainingRuns/{training_run}``.
        training_set: ``trainingSets/{training_set}``.
        training_set_digest: SHA-256 of its rows, hexadecimal.
        feature_service: ``featureServices/{feature_service}``.
        feature_names: inputs in order, as ``view.feature``.
        feature_descriptions: what each means, in the same order.
        baseline: per feature the value that explanations compare with, in its raw unit.
        hidden_sizes: sizes of the hidden layers.
        threshold: probability from which a prediction counts as positive in the fairness gate.
        gates: outcome of each gate by its name: ``PASSED``, ``FAILED`` or ``NOT_ENOUGH_EVIDENCE``.
        purposes: inherited from the training set.
        members: SHA-256 of each other member of the artifact, hexadecimal, by file name.
    """

    model_version: str
    training_run: str
    training_set: str
    training_set_digest: str
    feature_service: str
    feature_names: tuple[str, ...]
    feature_descriptions: tuple[str, ...]
    baseline: tuple[float, ...]
    hidden_sizes: tuple[int, ...]
    threshold: float
    gates: dict[str, str]
    purposes: tuple[str, ...]
    members: dict[str, str]

    def encode(self) -> bytes:
        """Return canonical JSON: sorted keys, no white space, no NaN.

        Raises:
            ValueError: a number is not finite, or the manifest is larger than ``MAX_MANIFEST_BYTES``.
        """
        content = dataclasses.asdict(self) | {"format": FORMAT}
        encoded = json.dumps(
            content, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True
        ).encode()
        if len(encoded) > MAX_MANIFEST_BYTES:
            raise ValueError(f"the manifest has {len(encoded)} bytes; at most {MAX_MANIFEST_BYTES} are allowed")
        return encoded

    @classmethod
    def decode(cls, encoded: bytes) -> Manifest:
        """Return the manifest in canonical JSON; call it only on verified bytes.

        Raises:
            ValueError: it is not a canonical manifest of this format.
        """
        if len(encoded) > MAX_MANIFEST_BYTES:
            raise ValueError("the manifest is too large")
        try:
            content = json.loads(encoded)
        except RecursionError as error:
            raise ValueError("the manifest is nested too deeply") from error
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise ValueError(f"the manifest is not of the format {FORMAT}")
        types = typing.get_type_hints(cls)
        if set(content) != set(types):
            raise ValueError(f"the manifest's fields differ: {sorted(set(content) ^ set(types))}")
        manifest = cls(**{name: _typed(name, types[name], value) for name, value in content.items()})
        manifest._check()
        if manifest.encode() != encoded:
            raise ValueError("the manifest is not canonical")
        return manifest

    def _check(self) -> None:
        features = len(self.feature_names)
        if not 1 <= features <= MAX_FEATURES or {len(self.feature_descriptions), len(self.baseline)} != {features}:
            raise ValueError("the manifest names, describes and grounds different numbers of features")
        if not all(math.isfinite(value) for value in (*self.baseline, self.threshold)):
            raise ValueError("the manifest holds a number that is not finite")
        if any(len(digest) != _DIGEST_LENGTH for digest in self.members.values()):
            raise ValueError("a member's digest is no SHA-256")


def _typed(name: str, expected: Any, value: Any) -> Any:
    """Return a JSON value as the field's type, or raise ValueError."""
    if expected is str and isinstance(value, str):
        return value
    if expected is float and _is(value, float):
        return float(value)
    if expected == dict[str, str] and isinstance(value, dict) and all(isinstance(v, str) for v in value.values()):
        return value
    if typing.get_origin(expected) is tuple and isinstance(value, list):
        kind = typing.get_args(expected)[0]
        if all(_is(item, kind) for item in value):
            return tuple(kind(item) for item in value)
    raise ValueError(f"the manifest's field {name} has another type than {expected}")


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is kind
