"""Client of the inference service. Tensors go through `hedgerow.sdk.triton_client`."""

from collections.abc import AsyncIterator, Sequence

from hedgerow.inference.v1 import inference_pb2 as pb
from hedgerow.sdk.facade import WRITE_SECONDS, Facade


class Inference(Facade):
    """Deployments, predictions and explanations."""

    async def create_deployment(self, deployment_id: str, model_version: str) -> pb.Deployment:
        """Deploys a model version, or replaces the one that a deployment serves."""
        request = pb.CreateDeploymentRequest(deployment_id=deployment_id, model_version=model_version)
        deployment: pb.Deployment = await self._call("CreateDeployment", request, timeout=WRITE_SECONDS)
        return deployment

    async def get_deployment(self, name: str) -> pb.Deployment:
        """Returns `deployments/{deployment}`."""
        deployment: pb.Deployment = await self._call("GetDeployment", pb.GetDeploymentRequest(name=name))
        return deployment

    def list_deployments(self) -> AsyncIterator[pb.Deployment]:
        """Yields all deployments by name."""
        return self._pages("ListDeployments", pb.ListDeploymentsRequest(), "deployments")

    async def predict(self, deployment: str, entity_keys: Sequence[str]) -> pb.PredictEntitiesResponse:
        """Predicts for 1 to 1,000 entities."""
        request = pb.PredictEntitiesRequest(deployment=deployment, entity_keys=entity_keys)
        response: pb.PredictEntitiesResponse = await self._call("PredictEntities", request)
        return response

    async def explain(
        self, deployment: str, entity_keys: Sequence[str], *, top_reasons: int = 0
    ) -> pb.ExplainEntitiesResponse:
        """Explains predictions for 1 to 100 entities."""
        request = pb.ExplainEntitiesRequest(deployment=deployment, entity_keys=entity_keys, top_reasons=top_reasons)
        response: pb.ExplainEntitiesResponse = await self._call("ExplainEntities", request, timeout=WRITE_SECONDS)
        return response
