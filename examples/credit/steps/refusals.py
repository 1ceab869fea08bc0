"""Step 6, first part: calls that must be refused, each made for real beside one that must be permitted."""

import datetime as dt
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from examples.credit.report.model import Refusal
from examples.credit.run import CREDIT_RISK, MARKETING, DemoError, Run
from hedgerow.channel import pinned_channel, secure_channel
from hedgerow.client import ServiceClient
from hedgerow.errors import HedgerowError
from hedgerow.identity import Identity, IdentityFolder
from hedgerow.ingestion.v1 import ingestion_pb2
from hedgerow.sdk import Hedgerow
from hedgerow.sdk.ingestion import Ingestion

_CALL_SECONDS = 5.0
# A server that closes the connection in the handshake tells the client no more than that; one that is away refuses the
# connection itself.
_AWAY = "connection refused"
_CLOSED = "closed in the TLS handshake"


@dataclass(frozen=True)
class Attempt:
    """One call that must be refused."""

    kind: str
    who: str
    what: str
    call: Callable[[], Awaitable[object]]


async def refusals(run: Run) -> Sequence[Refusal]:
    """Makes the calls and returns what became of each."""
    made = [await _make(attempt) for attempt in _wrong_purposes(run)]
    made += [await _without_certificate(run), await _with_foreign_certificate(run)]
    # The same service answers a caller with a good certificate, so it was not away.
    await run.caller("ana").ingestion.get_dataset(run.name("datasets", "clients"))
    for refusal in made:
        run.say(f"{refusal.who} tried to {refusal.what}: {refusal.code} {refusal.reason}")
    return made


def _wrong_purposes(run: Run) -> list[Attempt]:
    service, deployment = run.name("featureServices", "credit_default"), run.name("deployments", "credit_default")
    protected = run.name("featureServices", "client_protected")
    clients, keys = run.name("datasets", "clients"), run.clients([1])
    marketing, pretending = run.caller("mia", MARKETING), run.caller("mia", CREDIT_RISK)
    app, ben = run.caller("creditapp", CREDIT_RISK), run.caller("ben", CREDIT_RISK)
    who = "mia, marketing"
    return [
        Attempt(
            "purpose", who, "read the credit features", lambda: marketing.features.get_online_features(service, keys)
        ),
        Attempt(
            "purpose",
            f"{who}, claiming credit risk",
            "read the credit features",
            lambda: pretending.features.get_online_features(service, keys),
        ),
        Attempt(
            "purpose",
            who,
            "get a prediction, for which inference would read the features on her behalf",
            lambda: marketing.inference.predict(deployment, keys),
        ),
        Attempt("purpose", who, "get an explanation", lambda: marketing.inference.explain(deployment, keys)),
        Attempt(
            "purpose",
            "creditapp, the application",
            "read sex and age for a credit decision",
            lambda: app.features.get_online_features(protected, keys),
        ),
        Attempt(
            "purpose",
            "ben, data scientist",
            "open the column sex of the lake for a credit decision",
            lambda: ben.ingestion.open_snapshot(clients, columns=["sex"]),
        ),
    ]


async def _make(attempt: Attempt) -> Refusal:
    try:
        await attempt.call()
    except HedgerowError as error:
        reason = error.reason
        if attempt.kind == "purpose":
            refused = error.code_name == "PERMISSION_DENIED"
        elif error.code_name == "UNAVAILABLE":
            refused, reason = _AWAY not in error.message.lower(), _CLOSED
        else:
            refused = error.code_name == "UNAUTHENTICATED"
        return Refusal(attempt.kind, attempt.who, attempt.what, error.code_name, reason, refused)
    return Refusal(attempt.kind, attempt.who, attempt.what, "OK", "", refused=False)


class _BareChannel:
    """A channel as a client needs it: nothing but `method`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

    def method(self, kind: str, path: str, serializer: Any, deserializer: Any) -> Any:
        make = getattr(self.channel, kind)
        return make(path, request_serializer=serializer, response_deserializer=deserializer)


def _name(run: Run) -> str:
    return f"ingestion.{run.context.trust_domain}"


async def _without_certificate(run: Run) -> Refusal:
    identity, target = _identity(run), run.context.addresses["ingestion"]
    # The same channel with a certificate is answered, so what is missed below is the certificate.
    async with secure_channel(target, _name(run), identity) as channel:
        await _listing(_over(channel))()
    async with pinned_channel(target, _name(run), identity.roots_pem) as channel:
        return await _make(
            Attempt("identity", "a caller without a certificate", "list the datasets", _listing(_over(channel)))
        )


def _over(channel: grpc.aio.Channel) -> Ingestion:
    descriptor = ingestion_pb2.DESCRIPTOR.services_by_name["IngestionService"]
    client = ServiceClient(_BareChannel(channel), descriptor)  # type: ignore[arg-type]
    return Ingestion(client, "")


async def _with_foreign_certificate(run: Run) -> Refusal:
    with tempfile.TemporaryDirectory() as folder:
        forged = IdentityFolder(Path(folder) / "forged")
        forged.save(forge(_identity(run)))
        async with Hedgerow.connect(forged, run.context.addresses) as impostor:
            return await _make(
                Attempt(
                    "identity",
                    "a certificate with ana's name from another authority",
                    "list the datasets",
                    _listing(impostor.ingestion),
                )
            )


def _identity(run: Run) -> Identity:
    identity = run.context.identity("ana").load()
    if identity is None:
        raise DemoError("ana's identity is gone")
    return identity


def _listing(ingestion: Ingestion) -> Callable[[], Awaitable[object]]:
    async def first() -> object:
        return [dataset async for dataset in ingestion.list_datasets()]

    return first


def forge(genuine: Identity) -> Identity:
    """Returns an identity with the same SPIFFE ID, signed by an authority that nobody trusts."""
    key, issuer_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Another authority")]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=1))
        .not_valid_after(now + dt.timedelta(minutes=10))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(genuine.spiffe_id)]), critical=True)
    )
    certificate = builder.sign(issuer_key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    key_pem = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Identity(key_pem, certificate.public_bytes(pem), genuine.roots_pem)
