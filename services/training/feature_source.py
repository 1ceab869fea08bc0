"""What training reads from the features service, on behalf of whoever asked for the run."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from hedgerow.client import ServiceClient
from hedgerow.errors import FailedPreconditionError, InvalidArgumentError
from hedgerow.features.v1 import features_pb2 as pb
from services.training.spec import ProtectedAttribute, TrainingSpec
from services.training.training_set import TrainingRows, TrainingSetReader

FAIRNESS_PURPOSE: Final = "fairness_audit"
LOOK_SECONDS: Final = 15.0
READ_SECONDS: Final = 600.0
OFFLINE_SECONDS: Final = 120.0
# At least half of it is left of a token, which outlasts all attempts of a call.
TOKEN_SECONDS: Final = 2 * OFFLINE_SECONDS
KEYS_PER_CALL: Final = 1000
_PSEUDONYM: Final = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Delegation:
    """A principal's leave to read for one purpose.

    Attributes:
        purpose: why.
        sign: makes an on-behalf-of token for that purpose, given its life in seconds.
    """

    purpose: str
    sign: Callable[[float], str]

    def token(self) -> str:
        """Return a token for now: a run reads when its turn comes, long after it was asked for."""
        return self.sign(TOKEN_SECONDS)


@dataclass(frozen=True, slots=True)
class Source:
    """What a run trains on.

    Attributes:
        training_set: its name.
        digest: SHA-256 of its rows, hexadecimal.
        purposes: what may be done with it.
        feature_service: whose features it has.
        feature_names: in order.
        feature_descriptions: in the same order.
        mutable_fractions: relative distance that a subject could change each, in the same order.
    """

    training_set: str
    digest: str
    purposes: tuple[str, ...]
    feature_service: str
    feature_names: tuple[str, ...]
    feature_descriptions: tuple[str, ...]
    mutable_fractions: tuple[float, ...]


class FeatureSource:
    """A client of the features service."""

    def __init__(self, client: ServiceClient, *, max_rows: int) -> None:
        self._client = client
        self._max_rows = max_rows

    async def purposes(self, training_set: str) -> frozenset[str]:
        """Return what a training set may be used for.

        Raises:
            HedgerowError: as GetTrainingSet does.
        """
        found = await self._client.call(
            "GetTrainingSet", pb.GetTrainingSetRequest(name=training_set), timeout=LOOK_SECONDS
        )
        return frozenset(found.purposes)

    async def source(self, training_set: str) -> Source:
        """Return a training set that is ready.

        Raises:
            NotFoundError: there is none.
            FailedPreconditionError: it is not built.
        """
        found = await self._client.call(
            "GetTrainingSet", pb.GetTrainingSetRequest(name=training_set), timeout=LOOK_SECONDS
        )
        if found.state != pb.TrainingSet.STATE_SUCCEEDED:
            raise FailedPreconditionError(
                f"{training_set} is not ready; wait until its state is SUCCEEDED", metadata={"resource": training_set}
            )
        service = await self._service(found.feature_service)
        return Source(
            training_set=training_set,
            digest=found.digest,
            purposes=tuple(sorted(found.purposes)),
            feature_service=found.feature_service,
            feature_names=tuple(service.feature_names),
            feature_descriptions=tuple(service.feature_descriptions),
            mutable_fractions=tuple(service.mutable_fractions),
        )

    async def check_protected(self, spec: TrainingSpec, source: Source) -> None:
        """Check that the protected attributes exist and are no inputs.

        Raises:
            InvalidArgumentError: one is not so.
            NotFoundError: their feature service does not exist.
        """
        if not spec.protected_attributes:
            return
        service = await self._service(spec.protected_feature_service)
        for position, attribute in enumerate(spec.protected_attributes):
            field = f"spec.protected_attributes[{position}].feature"
            if attribute.feature not in service.feature_names:
                raise _wrong(field, f"expected a feature of {spec.protected_feature_service}")
            if attribute.feature in source.feature_names:
                raise _wrong(field, "expected a feature that the model does not have as an input")

    async def rows(self, source: Source, delegation: Delegation) -> TrainingRows:
        """Return the rows of a training set.

        Raises:
            FailedPreconditionError: a model cannot be trained on them.
            HedgerowError: as ReadTrainingSet does.
        """
        reader = TrainingSetReader(max_rows=self._max_rows)
        async for part in self._client.stream(
            "ReadTrainingSet",
            pb.ReadTrainingSetRequest(name=source.training_set),
            timeout=READ_SECONDS,
            purpose=delegation.purpose,
            on_behalf_of=delegation.token(),
        ):
            reader.add(part.arrow_ipc)
        rows = reader.rows()
        if rows.feature_names != source.feature_names:
            raise FailedPreconditionError(
                f"{source.training_set} was built with other features than {source.feature_service} has"
            )
        return rows

    async def protected(
        self,
        service: str,
        attributes: Sequence[ProtectedAttribute],
        entities: Sequence[str],
        as_of_us: int,
        delegation: Delegation,
    ) -> npt.NDArray[np.float64]:
        """Return protected attributes of entities, shape [n, attributes]; NaN where there is no value.

        Args:
            service: the feature service that has them.
            attributes: which ones.
            entities: as a training set has them: pseudonyms, or keys where the sources do not pseudonymize them.
            as_of_us: values as known then, µs since 1970 UTC.
            delegation: for the purpose ``fairness_audit``.
        """
        if not attributes:
            return np.empty((len(entities), 0))
        pseudonymous = all(map(_PSEUDONYM.fullmatch, entities))
        parts = []
        for start in range(0, len(entities), KEYS_PER_CALL):
            keys = entities[start : start + KEYS_PER_CALL]
            request = pb.GetOfflineFeaturesRequest(feature_service=service, entity_keys=keys, pseudonymous=pseudonymous)
            request.as_of_time.FromMicroseconds(as_of_us)
            block = await self._client.call(
                "GetOfflineFeatures",
                request,
                timeout=OFFLINE_SECONDS,
                purpose=delegation.purpose,
                on_behalf_of=delegation.token(),
            )
            parts.append(_columns(block, attributes))
        return np.concatenate(parts)

    async def _service(self, name: str) -> pb.FeatureService:
        service: pb.FeatureService = await self._client.call(
            "GetFeatureService", pb.GetFeatureServiceRequest(name=name), timeout=LOOK_SECONDS
        )
        return service


def _columns(block: pb.FeatureBlock, attributes: Sequence[ProtectedAttribute]) -> npt.NDArray[np.float64]:
    names = list(block.feature_names)
    values = np.frombuffer(block.values, dtype="<f8").reshape(len(block.statuses), len(names))
    present = np.array([status == pb.FeatureBlock.STATUS_PRESENT for status in block.statuses])
    chosen = values[:, [names.index(attribute.feature) for attribute in attributes]]
    return np.where(present[:, None], chosen, np.nan)


def _wrong(field: str, wanted: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{field}: {wanted}", fields={field: wanted})
