"""An unmodified Triton client that presents an identity of the suite."""

from typing import TYPE_CHECKING

from hedgerow.channel import balancing, target_of
from hedgerow.errors import UnauthenticatedError
from hedgerow.identity import IdentityFolder

if TYPE_CHECKING:
    from tritonclient.grpc import InferenceServerClient


def triton_client(identity: IdentityFolder, address: str) -> "InferenceServerClient":
    """Returns a `tritonclient.grpc` client of the inference service; needs the package `tritonclient[grpc]`.

    Pass `headers={"hedgerow-purpose": …}` to its calls to state a purpose. Its certificate is read once: make a new client
    after the identity was renewed.
    """
    from tritonclient.grpc import InferenceServerClient

    current = identity.load()
    if current is None:
        raise UnauthenticatedError("there is no usable identity here; log in first")
    pem = str(identity.folder / "identity.pem")
    return InferenceServerClient(
        url=target_of(address),
        ssl=True,
        root_certificates=str(identity.folder / "roots.pem"),
        private_key=pem,
        certificate_chain=pem,
        channel_args=[("grpc.ssl_target_name_override", f"inference.{current.trust_domain}"), *balancing(address)],
    )
