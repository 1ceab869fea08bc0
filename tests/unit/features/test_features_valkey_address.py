"""Which addresses of the online store's server are accepted."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis.exceptions import AuthenticationError

from hedgerow.errors import InvalidArgumentError
from services.features.online_store.valkey_address import parse_address


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text("hunter2\n")
    return file


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    file = tmp_path / "ca.pem"
    file.touch()
    return file


def test_a_whole_address(password_file: Path, ca: Path) -> None:
    address = parse_address(f"rediss://features@valkey.internal:7000/3?ssl_ca_certs={ca}", password_file)
    assert (address.host, address.port, address.database) == ("valkey.internal", 7000, 3)
    assert address.get_credentials() == ("features", "hunter2")
    told = address.connection()
    assert (told["ssl_cert_reqs"], told["ssl_check_hostname"], told["ssl_ca_certs"]) == ("required", True, str(ca))
    assert "hunter2" not in repr(address) + repr(told)
    assert parse_address(f"rediss://host?ssl_ca_certs={ca}", password_file).get_credentials() == ("hunter2",)


def test_a_client_certificate_takes_the_place_of_a_password(ca: Path) -> None:
    url = f"rediss://host/0?ssl_ca_certs={ca}&ssl_certfile={ca}&ssl_keyfile={ca}"
    told = parse_address(url, None).connection()
    assert told["credential_provider"] is None
    assert told["ssl_certfile"] == told["ssl_keyfile"] == str(ca)


@pytest.mark.parametrize(
    ("url", "demand"),
    [
        ("redis://host/0?ssl_ca_certs=CA", "rediss://"),
        ("unix:///run/valkey.sock", "rediss://"),
        ("rediss://:hunter2@host/0?ssl_ca_certs=CA", "online_password_file"),
        ("rediss:///0?ssl_ca_certs=CA", "host"),
        ("rediss://host/zero?ssl_ca_certs=CA", "number"),
        ("rediss://host/0", "ssl_ca_certs"),
        ("rediss://host/0?ssl_ca_certs=/none", "no file"),
        ("rediss://host/0?ssl_ca_certs=CA&ssl_cert_reqs=none", "ssl_cert_reqs"),
        ("rediss://host/0?ssl_ca_certs=CA&ssl_certfile=CA", "together"),
        ("rediss://host:port/0", "is no URL"),
    ],
)
def test_what_is_not_safe_is_refused(url: str, demand: str, password_file: Path, ca: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=demand) as caught:
        parse_address(url.replace("CA", str(ca)), password_file)
    assert list(caught.value.fields) == ["online_url"]
    assert "hunter2" not in str(caught.value)


def test_a_password_that_is_gone_later_is_no_fault_of_the_caller(password_file: Path, ca: Path) -> None:
    address = parse_address(f"rediss://host?ssl_ca_certs={ca}", password_file)
    password_file.unlink()
    with pytest.raises(AuthenticationError, match="cannot be read"):
        address.get_credentials()


@pytest.mark.parametrize("file", [None, "missing"])
def test_a_missing_password_is_named(file: str | None, tmp_path: Path, ca: Path) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse_address(f"rediss://host/0?ssl_ca_certs={ca}", tmp_path / file if file else None)
    assert list(caught.value.fields) == ["online_password_file"]
