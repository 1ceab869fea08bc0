"""How a workload gets its identity: the stored one when it is still good, else a fresh one for its token."""

from __future__ import annotations

import datetime as dt
import os

from hedgerow.client import enrol
from hedgerow.errors import DeadlineExceededError, UnauthenticatedError, UnavailableError
from hedgerow.identity import Identity, IdentityFolder
from hedgerow.secrets.v1 import secrets_pb2 as pb
from libs.config import ServiceConfig
from libs.telemetry import get_logger

MARGIN = dt.timedelta(seconds=10)
ENROL_SECONDS = 15.0
log = get_logger()


async def obtain_identity(config: ServiceConfig, folder: IdentityFolder, *, timeout: float = ENROL_SECONDS) -> Identity:
    """Return a usable identity and keep it in the folder.

    Args:
        config: where the enrolment port and the token are.
        folder: of the identity.
        timeout: how long to wait for the enrolment port, in seconds.

    Raises:
        UnavailableError: the enrolment port does not answer.
        UnauthenticatedError: there is no stored identity that is still good, and no token to get one.
        HedgerowError: as ``Enroll`` states.
    """
    stored = folder.load()
    if stored is not None and stored.expire_time - MARGIN > dt.datetime.now(dt.UTC):
        return stored
    path = config.enrolment_token_file
    if path is None or not path.exists():
        raise UnauthenticatedError(
            "there is no usable identity and no enrolment token; give the service a new token",
            metadata={"service": config.service},
        )
    try:
        identity = await enrol(
            config.enrolment_address,
            f"secrets.{config.trust_domain}",
            (config.trust_dir / "enrolment-ca.pem").read_bytes(),
            pb.DESCRIPTOR.services_by_name["EnrolmentService"].methods_by_name["Enroll"],
            timeout=timeout,
            token=path.read_text().strip(),
        )
    except DeadlineExceededError:
        # The call waits for a connection, so the deadline is all that it says of a port that nobody listens on.
        raise UnavailableError(
            "the enrolment port of the secrets service does not answer; see that it runs and that "
            "HEDGEROW_ENROLMENT_ADDRESS is right",
            metadata={"service": "secrets"},
        ) from None
    folder.save(identity)
    # A token of the platform lies on a read-only mount and is replaced there; a single-use token is spent now.
    if os.access(path.parent, os.W_OK):
        path.unlink(missing_ok=True)
    log.info("enrolled", spiffe_id=identity.spiffe_id, expire_time=identity.expire_time.isoformat())
    return identity
