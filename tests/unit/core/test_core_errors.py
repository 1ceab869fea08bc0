"""An error comes back from the wire as the same class with the same content."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow import errors

TEXT = st.text(max_size=40)
TABLE = st.dictionaries(st.text(min_size=1, max_size=20), TEXT, max_size=3)


class FailedCall(grpc.RpcError):
    """A failed call as gRPC reports it."""

    def __init__(self, code: grpc.StatusCode, details: str, trailing: tuple[tuple[str, bytes], ...] = ()) -> None:
        self._parts = (code, details, trailing)

    def code(self) -> grpc.StatusCode:
        return self._parts[0]

    def details(self) -> str:
        return self._parts[1]

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        return self._parts[2]


@given(
    st.sampled_from(sorted(errors._CLASSES.values(), key=lambda cls: cls.code_name)),
    TEXT.filter(bool),
    TABLE,
    TABLE,
    st.none() | st.floats(0, 1e6),
)
def test_errors_round_trip(
    cls: type[errors.HedgerowError],
    message: str,
    metadata: dict[str, str],
    fields: dict[str, str],
    retry_after: float | None,
) -> None:
    error = cls(message, metadata=metadata, fields=fields, retry_after=retry_after)
    wire = errors.to_status(error).SerializeToString()
    back = errors.from_rpc_error(FailedCall(error.code, message, ((errors.STATUS_DETAILS_KEY, wire),)))
    assert type(back) is cls
    assert (back.message, back.reason, back.metadata, back.fields) == (message, error.reason, metadata, fields)
    assert back.retry_after == (None if retry_after is None else pytest.approx(retry_after, abs=1e-8))


def test_an_error_of_a_foreign_server_keeps_its_code() -> None:
    back = errors.from_rpc_error(FailedCall(grpc.StatusCode.NOT_FOUND, "no such thing"))
    assert (type(back), back.message, back.reason) == (errors.NotFoundError, "no such thing", "RESOURCE_NOT_FOUND")
    assert type(errors.from_rpc_error(FailedCall(grpc.StatusCode.UNKNOWN, ""))) is errors.InternalError


def test_what_grpc_says_of_a_peer_that_is_away_does_not_travel_on() -> None:
    away = FailedCall(grpc.StatusCode.UNAVAILABLE, "ipv4:10.0.0.7:7440: Connection refused")
    back = errors.from_rpc_error(away, "hedgerow.secrets.v1.SecretsService")
    assert type(back) is errors.UnavailableError
    assert back.reason == "DEPENDENCY_UNAVAILABLE"
    assert back.metadata == {"service": "hedgerow.secrets.v1.SecretsService"}
    assert back.__notes__ == ["ipv4:10.0.0.7:7440: Connection refused"]
    assert b"10.0.0.7" not in errors.to_status(back).SerializeToString()
