"""A stand-in for the two things of a Kubernetes cluster that enrolment meets: its token issuer and its TokenReview API."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import ssl
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.authority import Authority

ISSUER = "https://kubernetes.default.svc.cluster.local"
REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"


class Cluster:
    """Issues projected service-account tokens with the claims that a cluster puts into them.

    Attributes:
        gone: pods that were deleted; a review refuses their tokens.
        reviewed: audiences that reviews were asked for.
    """

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(65537, 2048)
        self.gone: set[str] = set()
        self.reviewed: list[list[str]] = []

    @property
    def public_pem(self) -> str:
        """The issuer's public key."""
        pem, spki = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        return self._key.public_key().public_bytes(pem, spki).decode()

    def token(self, account: str, namespace: str = "hedgerow", *, life: float = 600, **claims: Any) -> str:
        """Return a token for the pod `<account>-0`, for the audience `hedgerow` unless told otherwise."""
        now = dt.datetime.now(dt.UTC)
        content = {
            "iss": ISSUER,
            "aud": ["hedgerow"],
            "sub": f"system:serviceaccount:{namespace}:{account}",
            "iat": now - dt.timedelta(hours=1),
            "nbf": now - dt.timedelta(hours=1),
            "exp": now + dt.timedelta(seconds=life),
            "jti": str(uuid.uuid4()),
            "kubernetes.io": {
                "namespace": namespace,
                "pod": {"name": f"{account}-0", "uid": str(uuid.uuid4())},
                "serviceaccount": {"name": account, "uid": f"uid-of-{account}"},
            },
        }
        return jwt.encode(content | claims, self._key, algorithm="RS256", headers={"kid": "cluster-1"})

    def review(self, token: str, audiences: list[str]) -> dict[str, Any]:
        """Return the status of a TokenReview."""
        self.reviewed.append(audiences)
        try:
            claims = jwt.decode(token, self.public_pem, algorithms=["RS256"], audience=audiences, issuer=ISSUER)
        except jwt.InvalidTokenError as error:
            return {"authenticated": False, "error": type(error).__name__}
        if claims["kubernetes.io"]["pod"]["name"] in self.gone:
            return {"authenticated": False, "error": "pod is gone"}
        account = claims["kubernetes.io"]["serviceaccount"]
        groups = ["system:serviceaccounts", "system:authenticated"]
        user = {"username": claims["sub"], "uid": account["uid"], "groups": groups}
        return {"authenticated": True, "user": user, "audiences": audiences}


@contextlib.contextmanager
def reviewing(cluster: Cluster, folder: Path) -> Iterator[tuple[str, str]]:
    """Serve TokenReviews over TLS; yield the address and the CA in PEM."""
    authority = Authority("cluster root")
    identity = authority.issue(dns=("localhost",))
    folder.mkdir(parents=True, exist_ok=True)
    pem = folder / "api.pem"
    pem.write_bytes(identity.key_pem + identity.chain_pem)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            known = self.path == REVIEWS
            status = cluster.review(asked["spec"]["token"], asked["spec"].get("audiences") or []) if known else {}
            body = json.dumps(asked | {"status": status}).encode()
            self.send_response(201 if known else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base names it
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}", authority.roots_pem.decode()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
