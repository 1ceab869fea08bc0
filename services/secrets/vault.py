"""The one client of the secret server (OpenBao or HashiCorp Vault).

Rules:
- It logs in with a client certificate or a token of the platform, again at two thirds of the login's life, and once more
  when a call is refused.
- A token younger than ``RELOGIN_SECONDS`` is not replaced on a refusal, so that a policy fault cannot cause a login loop.
- Every call has a time limit. A broken connection is tried again for a moment, because a restarted server is back within
  a second; a call that must not run twice is not.
- Sealed, unreachable, overloaded and refused are told apart (``metadata["state"]``).
- The environment never changes how the server is verified or reached (``trust_env`` is off).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from hvac.adapters import RawAdapter

from hedgerow.errors import InternalError, NotFoundError, UnavailableError

RELOGIN_SECONDS = 10.0
STATE_SECONDS = 0.1
MAX_CONNECTIONS = 8
RETRY_DELAYS = (0.05, 0.1, 0.2, 0.4, 0.8)
_HEALTH_PATH = "v1/sys/health?standbyok=true&perfstandbyok=true"


@dataclass(frozen=True)
class VaultSettings:
    """How to reach the secret server.

    Attributes:
        address: ``https://host:port``.
        ca_file: PEM of the CA that signed its listener certificate.
        cert_file: PEM of the client certificate, read again at each login; empty to log in with ``token_file``.
        key_file: PEM of its private key.
        role: name of the role of the auth method.
        namespace: Vault Enterprise or OpenBao namespace; empty for none.
        time_limit: seconds for one call.
        token_file: a JWT that the platform keeps fresh, such as a projected service-account token, read at each login.
        auth_mount: where the auth method is mounted: ``cert``, or one of type ``jwt`` or ``kubernetes`` for a token.
    """

    address: str
    ca_file: str
    cert_file: str
    key_file: str
    role: str
    namespace: str = ""
    time_limit: float = 5.0
    token_file: str = ""
    auth_mount: str = "cert"


class VaultError(UnavailableError):
    """The secret server cannot serve just now. ``metadata["state"]`` says why."""

    state = "failing"
    text = "the secret server failed; try again"

    def __init__(self, *, retry_after: float | None = None) -> None:
        super().__init__(self.text, metadata={"dependency": "vault", "state": self.state}, retry_after=retry_after)


class VaultSealedError(VaultError):
    """The server answers but is sealed."""

    state = "sealed"
    text = "the secret server is sealed; an operator must unseal it"


class VaultUnreachableError(VaultError):
    """The server cannot be reached, or did not answer within the time limit."""

    state = "unreachable"
    text = "the secret server cannot be reached; try again"


class VaultOverloadedError(VaultError):
    """The server asks for fewer requests (429, or 503 while unsealed)."""

    state = "overloaded"
    text = "the secret server is overloaded; try again later"


class VaultRefusedError(VaultError):
    """The server refuses this service's credential or policy (403 after a fresh login)."""

    state = "refused"
    text = "the secret server refuses this service; an operator must mend its policy or certificate"


class VaultPathError(NotFoundError):
    """Nothing is stored at the path (404)."""

    def __init__(self) -> None:
        super().__init__("there is no such entry in the secret server")


class VaultRequestError(InternalError):
    """The server calls the request wrong (400). ``details`` is for the log and for the caller's decision, not for clients.

    Attributes:
        details: what the server said, lower case.
    """

    def __init__(self, details: str) -> None:
        super().__init__("the secret server refused the request")
        self.details = details.lower()


class Vault:
    """A thread-safe client; every method blocks for at most the time limit and a moment of retries.

    All methods raise the errors above.
    """

    def __init__(
        self,
        settings: VaultSettings,
        *,
        transport: requests.adapters.BaseAdapter | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Prepare the client; it logs in with its first call.

        Args:
            settings: how to reach the server.
            transport: carries the requests; HTTPS with a bounded pool unless given.
            clock: seconds, monotonic.
            sleep: waits for seconds.
        """
        self._settings = settings
        self._clock = clock
        self._sleep = sleep
        session = requests.Session()
        session.trust_env = False
        session.verify = settings.ca_file
        session.cert = (settings.cert_file, settings.key_file) if settings.cert_file else None
        pool = requests.adapters.HTTPAdapter(pool_maxsize=MAX_CONNECTIONS, pool_block=True)
        session.mount("https://", transport or pool)
        self._http = RawAdapter(
            base_uri=settings.address,
            session=session,
            timeout=settings.time_limit,
            namespace=settings.namespace or None,
            allow_redirects=False,
            strict_http=True,
        )
        self._lock = threading.Lock()
        self._token = ""
        self._login_time = 0.0
        self._login_again_time = 0.0

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # Paths -------------------------------------------------------------------------------------------------------

    def read(self, path: str) -> dict[str, Any]:
        """Return what is at a path."""
        return self._call("get", path)

    def write(self, path: str, data: Mapping[str, Any] | None = None, *, repeatable: bool = True) -> dict[str, Any]:
        """Write to a path and return the answer's data; ``repeatable`` permits a second try on a broken connection."""
        return self._call("post", path, data or {}, repeatable=repeatable)

    def list_keys(self, path: str) -> list[str]:
        """Return the keys under a path; none when there is nothing."""
        try:
            return [str(key) for key in self._call("list", path)["keys"]]
        except VaultPathError:
            return []

    # Key-value records, version 2 ---------------------------------------------------------------------------------

    def read_record(self, name: str) -> tuple[dict[str, Any], int] | None:
        """Return a record of the ``kv`` mount with its version, or None."""
        try:
            answer = self._call("get", f"kv/data/{name}")
        except VaultPathError:
            return None
        return answer["data"], int(answer["metadata"]["version"])

    def write_record(self, name: str, record: Mapping[str, Any], *, expected_version: int) -> bool:
        """Write a record when its version is still the expected one (0: it does not exist); return whether it was.

        A writer that loses a race, or repeats its own write on a broken connection, gets False and reads again.
        """
        try:
            self._call("post", f"kv/data/{name}", {"data": dict(record), "options": {"cas": expected_version}})
        except VaultRequestError as error:
            if "check-and-set" in error.details:
                return False
            raise
        return True

    # Response wrapping ----------------------------------------------------------------------------------------------

    def wrapped_record(self, name: str, *, ttl_seconds: int) -> str:
        """Return a single-use token that stands for reading a record of the ``kv`` mount."""
        response = self._authorised("get", f"kv/data/{name}", None, repeatable=True, wrap_ttl=f"{ttl_seconds}s")
        return str(response.json()["wrap_info"]["token"])

    def wrapping_origin(self, token: str) -> str:
        """Return the path whose answer a wrapping token holds, without spending the token.

        Raises:
            VaultRequestError: the token is unknown, used or expired.
        """
        return str(self._call("post", "sys/wrapping/lookup", {"token": token})["creation_path"])

    def unwrap(self, token: str) -> dict[str, Any]:
        """Spend a wrapping token and return the answer it held.

        Raises:
            VaultRequestError: the token is unknown, used or expired.
        """
        return self._call("post", "sys/wrapping/unwrap", {"token": token}, repeatable=False)

    # People -----------------------------------------------------------------------------------------------------------

    def check_password(self, name: str, password: str) -> bool:
        """Return whether a person's password is right; the server locks a name after repeated failures."""
        response = self._send("post", f"auth/userpass/login/{name}", {"password": password}, token="")
        if response.status_code in (400, 403):
            return False
        self._raise_for_status(response)
        return True

    # Workloads of a platform ------------------------------------------------------------------------------------------

    def check_workload(self, mount: str, role: str, token: str) -> dict[str, str] | None:
        """Return what the server says of the holder of a platform's token, or None when it refuses the token.

        Args:
            mount: of an auth method of type ``jwt`` or ``kubernetes``.
            role: of that method.
            token: a JWT.
        """
        response = self._send("post", f"auth/{mount}/login", {"role": role, "jwt": token}, token="")
        if response.status_code in (400, 403):
            return None
        self._raise_for_status(response)
        return {str(key): str(value) for key, value in (response.json()["auth"]["metadata"] or {}).items()}

    # State ------------------------------------------------------------------------------------------------------------

    def state(self) -> str:
        """Return ``active``, ``sealed``, ``uninitialised``, ``overloaded`` or ``unreachable``; never raises."""
        try:
            response = self._http.request("get", _HEALTH_PATH, raise_exception=False)
        except requests.RequestException:
            return "unreachable"
        return {200: "active", 501: "uninitialised", 503: "sealed"}.get(response.status_code, "overloaded")

    def wait_until_active(self, seconds: float) -> None:
        """Return when the server is active.

        Raises:
            VaultSealedError, VaultUnreachableError or VaultOverloadedError: it was not within ``seconds``.
        """
        deadline = self._clock() + seconds
        while (state := self.state()) != "active":
            if self._clock() >= deadline:
                causes = {"sealed": VaultSealedError, "unreachable": VaultUnreachableError}
                raise causes.get(state, VaultOverloadedError)
            self._sleep(STATE_SECONDS)

    # Transport ----------------------------------------------------------------------------------------------------------

    def _call(
        self, method: str, path: str, data: Mapping[str, Any] | None = None, *, repeatable: bool = True
    ) -> dict[str, Any]:
        response = self._authorised(method, path, data, repeatable=repeatable)
        if response.status_code == requests.codes.no_content or not response.content:
            return {}
        return dict(response.json().get("data") or {})

    def _authorised(
        self, method: str, path: str, data: Mapping[str, Any] | None, *, repeatable: bool, wrap_ttl: str = ""
    ) -> requests.Response:
        token = self._current_token()
        response = self._send(method, path, data, token=token, repeatable=repeatable, wrap_ttl=wrap_ttl)
        if response.status_code == requests.codes.forbidden and self._replace_token(token):
            response = self._send(
                method, path, data, token=self._current_token(), repeatable=repeatable, wrap_ttl=wrap_ttl
            )
        self._raise_for_status(response)
        return response

    def _current_token(self) -> str:
        with self._lock:
            if self._clock() >= self._login_again_time:
                self._login()
            return self._token

    def _replace_token(self, refused: str) -> bool:
        """Log in again unless the refused token is new; return whether there is another token to try."""
        with self._lock:
            if self._token != refused:
                return True
            if self._clock() - self._login_time < RELOGIN_SECONDS:
                return False
            self._login()
            return True

    def _login(self) -> None:
        response = self._send("post", f"auth/{self._settings.auth_mount}/login", self._credential(), token="")
        if response.status_code in (400, 403):
            raise VaultRefusedError
        self._raise_for_status(response)
        auth = response.json()["auth"]
        self._token = str(auth["client_token"])
        self._login_time = self._clock()
        self._login_again_time = self._login_time + auth["lease_duration"] * 2 / 3

    def _credential(self) -> dict[str, str]:
        """What a login says; with a certificate the connection proves the rest."""
        if not self._settings.token_file:
            return {"name": self._settings.role}
        try:
            token = Path(self._settings.token_file).read_text().strip()
        except OSError as error:
            raise VaultUnreachableError from error
        return {"role": self._settings.role, "jwt": token}

    def _send(
        self,
        method: str,
        path: str,
        data: Mapping[str, Any] | None,
        *,
        token: str,
        repeatable: bool = True,
        wrap_ttl: str = "",
    ) -> requests.Response:
        for delay in (*(RETRY_DELAYS if repeatable else ()), None):
            # The adapter adds to the headers it is given: a fresh dict for each try.
            headers = {"X-Vault-Token": token} if token else {}
            try:
                response: requests.Response = self._http.request(
                    method, f"v1/{path}", headers=headers, json=data, wrap_ttl=wrap_ttl, raise_exception=False
                )
                return response
            except requests.Timeout as error:
                raise VaultUnreachableError from error
            except requests.ConnectionError as error:
                if delay is None:
                    raise VaultUnreachableError from error
                self._sleep(delay)
            except (requests.RequestException, OSError) as error:
                # OSError: the certificate files are missing or cannot be read.
                raise VaultUnreachableError from error
        raise AssertionError("the last try returns or raises")

    def _raise_for_status(self, response: requests.Response) -> None:
        status = response.status_code
        if status < 400:
            return
        if status == requests.codes.not_found:
            raise VaultPathError
        if status == requests.codes.forbidden:
            raise VaultRefusedError
        if status == requests.codes.too_many_requests:
            raise VaultOverloadedError(retry_after=_retry_after(response))
        if status == requests.codes.service_unavailable:
            # 503 may mean sealed or too busy: only the health endpoint tells.
            raise (
                VaultSealedError
                if self.state() == "sealed"
                else VaultOverloadedError(retry_after=_retry_after(response))
            )
        # Who loses a race for a wrapping token is told so with a 500: the token is spent, and the server is not at fault.
        if status >= 500 and "invalid token entry" not in _details(response):
            raise VaultError
        raise VaultRequestError(_details(response))


def _retry_after(response: requests.Response) -> float:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else 1.0


def _details(response: requests.Response) -> str:
    try:
        return "; ".join(str(error) for error in response.json().get("errors") or ())
    except ValueError:
        return ""
