"""One caller's connection to a suite."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from google.protobuf.descriptor import ServiceDescriptor

from hedgerow.channel import RotatingChannel
from hedgerow.client import RetryBudget, ServiceClient
from hedgerow.errors import UnauthenticatedError
from hedgerow.features.v1 import features_pb2
from hedgerow.governance.v1 import governance_pb2
from hedgerow.identity import IdentityFolder
from hedgerow.inference.v1 import inference_pb2
from hedgerow.ingestion.v1 import ingestion_pb2
from hedgerow.models.v1 import models_pb2
from hedgerow.sdk.features import Features
from hedgerow.sdk.governance import Governance
from hedgerow.sdk.inference import Inference
from hedgerow.sdk.ingestion import Ingestion
from hedgerow.sdk.rpcs import SuiteRpcs
from hedgerow.sdk.secrets import Secrets
from hedgerow.sdk.training import Models, Training
from hedgerow.secrets.v1 import secrets_pb2
from hedgerow.training.v1 import training_pb2


class Hedgerow:
    """The suite as one caller sees it: a client for each service, on one channel for each address.

    Create it inside a running event loop, close it when done (or use it as `async with`). Channels open on the first call
    and follow the rotation of the caller's certificate. `rpcs` has every RPC of every service, message in and message out.
    """

    def __init__(
        self,
        channels: Mapping[str, RotatingChannel],
        purpose: str = "",
        budgets: Mapping[str, RetryBudget] | None = None,
    ) -> None:
        self._channels = channels
        self._budgets = budgets or {service: RetryBudget() for service in channels}
        self.purpose = purpose

        def client(service: str, descriptor: ServiceDescriptor) -> ServiceClient:
            return ServiceClient(channels[service], descriptor, self._budgets[service])

        self.ingestion = Ingestion(client("ingestion", _service(ingestion_pb2, "IngestionService")), purpose)
        self.features = Features(client("features", _service(features_pb2, "FeaturesService")), purpose)
        self.training = Training(client("training", _service(training_pb2, "TrainingService")), purpose)
        self.models = Models(client("training", _service(models_pb2, "ModelsService")), purpose)
        self.inference = Inference(client("inference", _service(inference_pb2, "InferenceService")), purpose)
        self.secrets = Secrets(client("secrets", _service(secrets_pb2, "SecretsService")), purpose)
        self.governance = Governance(client("governance", _service(governance_pb2, "GovernanceService")), purpose)
        self.rpcs = SuiteRpcs(client, purpose)

    @classmethod
    def connect(cls, identity: IdentityFolder, addresses: Mapping[str, str], *, purpose: str = "") -> Self:
        """Connects with an identity to the services of its trust domain at `addresses` (`host:port` by service).

        Raises:
            UnauthenticatedError: the folder holds no usable identity.
        """
        current = identity.current()
        if current is None:
            raise UnauthenticatedError("there is no usable identity here; log in or enrol first")
        channels = {
            service: RotatingChannel(address, f"{service}.{current.trust_domain}", identity)
            for service, address in addresses.items()
        }
        return cls(channels, purpose)

    def for_purpose(self, purpose: str) -> "Hedgerow":
        """Returns the same connection, with every call stating this purpose; close only one of the two."""
        return Hedgerow(self._channels, purpose, self._budgets)

    async def close(self) -> None:
        """Closes all channels."""
        for channel in self._channels.values():
            await channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _service(module: object, name: str) -> ServiceDescriptor:
    descriptor: ServiceDescriptor = module.DESCRIPTOR.services_by_name[name]  # type: ignore[attr-defined]
    return descriptor
