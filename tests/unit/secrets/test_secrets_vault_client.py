"""The client of the secret server under faults that a real server does not play on demand (VLT-05, VLT-07)."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import requests

from hedgerow.errors import HedgerowError
from services.secrets.vault import (
    RELOGIN_SECONDS,
    Vault,
    VaultError,
    VaultOverloadedError,
    VaultPathError,
    VaultRefusedError,
    VaultRequestError,
    VaultSealedError,
    VaultSettings,
    VaultUnreachableError,
)

SETTINGS = VaultSettings("https://vault.test:8200", "ca.pem", "cert.pem", "cert.key", role="hedgerow-secrets")
Answer = tuple[int, Mapping[str, Any]] | Exception


class Script(requests.adapters.BaseAdapter):
    """Answers logins with token after token, and everything else from ``answer``."""

    def __init__(self, answer: Callable[[requests.PreparedRequest], Answer], lease: int = 900) -> None:
        super().__init__()
        self.answer = answer
        self.lease = lease
        self.logins = 0
        self.calls: list[str] = []

    def send(self, request: requests.PreparedRequest, *_: object, **kwargs: Any) -> requests.Response:
        assert kwargs["timeout"] == SETTINGS.time_limit
        assert kwargs["verify"] == "ca.pem"
        assert request.url is not None
        path = request.url.removeprefix("https://vault.test:8200/v1/")
        if path == "auth/cert/login":
            self.logins += 1
            return respond(200, {"auth": {"client_token": f"t{self.logins}", "lease_duration": self.lease}})
        self.calls.append(path)
        answer = self.answer(request)
        if isinstance(answer, Exception):
            raise answer
        return respond(*answer)

    def close(self) -> None:
        """Nothing to close."""


def respond(status: int, body: Mapping[str, Any]) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    response.headers["Content-Type"] = "application/json"
    response.headers["Retry-After"] = "7"
    response._content = json.dumps(body).encode()
    return response


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def client(script: Script, clock: Clock | None = None) -> Vault:
    return Vault(SETTINGS, transport=script, clock=clock or Clock(), sleep=lambda seconds: None)


def always(status: int, body: Mapping[str, Any]) -> Callable[[requests.PreparedRequest], Answer]:
    return lambda request: (status, body)


def test_it_logs_in_again_at_two_thirds_of_the_lease() -> None:
    script, clock = Script(always(200, {"data": {"a": 1}}), lease=90), Clock()
    vault = client(script, clock)
    for _ in range(3):
        assert vault.read("x") == {"a": 1}
    clock.time += 59.0
    vault.read("x")
    assert script.logins == 1
    clock.time += 1.0
    vault.read("x")
    assert script.logins == 2


def test_a_refused_token_is_replaced_once() -> None:
    def answer(request: requests.PreparedRequest) -> Answer:
        return (200, {"data": {}}) if request.headers["X-Vault-Token"] == "t2" else (403, {})

    script, clock = Script(answer), Clock()
    vault = client(script, clock)
    clock.time += RELOGIN_SECONDS
    with pytest.raises(VaultRefusedError):
        vault.read("x")
    clock.time += RELOGIN_SECONDS
    assert vault.read("x") == {}
    assert script.logins == 2


def test_a_policy_fault_causes_no_login_loop() -> None:
    script, clock = Script(always(403, {})), Clock()
    vault = client(script, clock)
    for _ in range(20):
        with pytest.raises(VaultRefusedError) as caught:
            vault.read("x")
        clock.time += 1.0
    assert caught.value.metadata == {"dependency": "vault", "state": "refused"}
    assert script.logins <= 3


def health(state: int, otherwise: int) -> Callable[[requests.PreparedRequest], Answer]:
    return lambda request: (state if "sys/health" in str(request.url) else otherwise, {"errors": ["busy"]})


@pytest.mark.parametrize(
    ("answer", "expected", "state"),
    [
        (health(503, 503), VaultSealedError, "sealed"),
        (health(200, 503), VaultOverloadedError, "overloaded"),
        (health(200, 429), VaultOverloadedError, "overloaded"),
        (health(200, 500), VaultError, "failing"),
        (lambda request: requests.ReadTimeout(), VaultUnreachableError, "unreachable"),
        (lambda request: requests.ConnectionError(), VaultUnreachableError, "unreachable"),
        (lambda request: requests.exceptions.SSLError(), VaultUnreachableError, "unreachable"),
        (lambda request: OSError("no certificate file"), VaultUnreachableError, "unreachable"),
    ],
)
def test_causes_are_told_apart(
    answer: Callable[[requests.PreparedRequest], Answer], expected: type[VaultError], state: str
) -> None:
    with pytest.raises(VaultError) as caught:
        client(Script(answer)).read("x")
    assert type(caught.value) is expected
    assert caught.value.code_name == "UNAVAILABLE"
    assert caught.value.metadata == {"dependency": "vault", "state": state}
    assert caught.value.retry_after == (7.0 if state == "overloaded" else None)


@pytest.mark.parametrize(
    ("status", "state"),
    [(200, "active"), (503, "sealed"), (501, "uninitialised"), (429, "overloaded")],
)
def test_state(status: int, state: str) -> None:
    assert client(Script(always(status, {}))).state() == state


def test_a_broken_connection_is_tried_again_unless_the_call_must_not_run_twice() -> None:
    answers: list[Answer] = [requests.ConnectionError(), requests.ConnectionError(), (200, {"data": {"a": 1}})]
    script = Script(lambda request: answers.pop(0))
    assert client(script).read("x") == {"a": 1}
    script = Script(lambda request: requests.ConnectionError())
    with pytest.raises(VaultUnreachableError):
        client(script).unwrap("token")
    assert script.calls == ["sys/wrapping/unwrap"]


def test_absent_and_wrong_are_not_outages() -> None:
    with pytest.raises(VaultPathError) as absent:
        client(Script(always(404, {"errors": []}))).read("x")
    assert absent.value.code_name == "NOT_FOUND"
    with pytest.raises(VaultRequestError) as wrong:
        client(Script(always(400, {"errors": ["Key 'hunter2' Not Found"]}))).read("x")
    assert wrong.value.details == "key 'hunter2' not found"
    assert "hunter2" not in wrong.value.message


def test_what_the_server_says_never_reaches_the_message() -> None:
    for status in (400, 403, 404, 429, 500, 503):
        with pytest.raises(HedgerowError) as caught:
            client(Script(always(status, {"errors": ["hunter2"]}))).read("x")
        assert "hunter2" not in str(caught.value)


def test_who_loses_a_race_for_a_wrapping_token_holds_a_spent_token() -> None:
    said = "error decrementing wrapping token's use-count: invalid token entry provided for use count decrementing"
    with pytest.raises(VaultRequestError):
        client(Script(always(500, {"errors": [said]}))).unwrap("s.token")
