"""Client of the secrets service: what a person needs of it."""

import datetime as dt

from hedgerow.sdk.facade import READ_SECONDS, WRITE_SECONDS, Facade
from hedgerow.secrets.v1 import secrets_pb2 as pb


class Secrets(Facade):
    """Public keys, for checking signatures without trusting who hands them over, and revocation."""

    async def get_verification_keys(self, key: str) -> dict[int, bytes]:
        """Returns the raw ed25519 public keys of `signingKeys/{key}` by version."""
        answer: pb.VerificationKey = await self._call("GetVerificationKey", pb.GetVerificationKeyRequest(key=key))
        return dict(answer.public_keys)

    async def revoke_certificate(self, serial: str) -> dt.datetime:
        """Revokes, as an operator, a certificate by its serial number (lower-case hexadecimal); returns since when."""
        request = pb.RevokeCertificateRequest(serial=serial)
        answer: pb.RevokeCertificateResponse = await self._call("RevokeCertificate", request, timeout=WRITE_SECONDS)
        return answer.revoke_time.ToDatetime(dt.UTC)

    async def list_revoked_serials(self) -> list[str]:
        """Returns the serial numbers (lower-case hexadecimal) of revoked certificates that have not expired yet."""
        states = self._client.stream("WatchTrust", pb.WatchTrustRequest(), timeout=READ_SECONDS, purpose=self._purpose)
        async for state in states:
            return list(state.revoked_serials)
        return []
