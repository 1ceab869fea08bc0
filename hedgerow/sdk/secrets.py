"""Client of the secrets service: what a person needs of it."""

from hedgerow.sdk.facade import Facade
from hedgerow.secrets.v1 import secrets_pb2 as pb


class Secrets(Facade):
    """Public keys, for checking signatures without trusting who hands them over."""

    async def get_verification_keys(self, key: str) -> dict[int, bytes]:
        """Returns the raw ed25519 public keys of `signingKeys/{key}` by version."""
        answer: pb.VerificationKey = await self._call("GetVerificationKey", pb.GetVerificationKeyRequest(key=key))
        return dict(answer.public_keys)
