"""Keys against a real OpenBao."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from hedgerow.errors import InvalidArgumentError, NotFoundError
from services.secrets.keys import KeyRing
from services.secrets.vault import Vault, VaultRefusedError


@pytest.fixture
def keys(vault: Vault) -> KeyRing:
    return KeyRing(vault)


def test_a_data_key_is_made_at_first_use_and_unwraps(keys: KeyRing) -> None:
    plaintext, wrapped = keys.create_data_key("keys/features-first_use")
    assert len(plaintext) == 32
    assert plaintext not in wrapped
    assert keys.unwrap("keys/features-first_use", wrapped) == plaintext
    again, _ = keys.create_data_key("keys/features-first_use")
    assert again != plaintext


def test_the_key_is_aes_256_and_cannot_be_exported_or_deleted(keys: KeyRing, vault: Vault) -> None:
    keys.create_data_key("keys/features-kind")
    made = vault.read("transit-keys/keys/features-kind")
    assert (made["type"], made["exportable"], made["deletion_allowed"]) == ("aes256-gcm96", False, False)
    with pytest.raises(VaultRefusedError):
        vault.read("transit-keys/export/encryption-key/features-kind")


def test_material_of_any_length_up_to_512_bytes(keys: KeyRing) -> None:
    for length in (1, 32, 512):
        wrapped = keys.wrap("keys/features-lengths", b"x" * length)
        assert keys.unwrap("keys/features-lengths", wrapped) == b"x" * length
    for length in (0, 513):
        with pytest.raises(InvalidArgumentError) as caught:
            keys.wrap("keys/features-lengths", b"x" * length)
        assert list(caught.value.fields) == ["plaintext"]


def test_wrapped_bytes_open_only_under_their_own_key_and_unchanged(keys: KeyRing) -> None:
    wrapped = keys.wrap("keys/features-a", b"material")
    keys.wrap("keys/features-b", b"other")
    flipped = wrapped[:-6] + bytes([wrapped[-6] ^ 1]) + wrapped[-5:]
    for name, content in [
        ("keys/features-b", wrapped),
        ("keys/features-a", flipped),
        ("keys/features-a", b"\xff\xfe"),
        ("keys/features-a", b"vault:v9:AAAA"),
        ("keys/features-a", b""),
        ("keys/features-a", b"x" * 5000),
    ]:
        with pytest.raises(InvalidArgumentError) as caught:
            keys.unwrap(name, content)
        assert list(caught.value.fields) == ["wrapped"]


def test_unwrapping_under_a_key_that_does_not_exist(keys: KeyRing) -> None:
    wrapped = keys.wrap("keys/features-a", b"material")
    with pytest.raises(NotFoundError) as caught:
        keys.unwrap("keys/features-never_made", wrapped)
    assert caught.value.metadata == {"resource": "keys/features-never_made"}


@pytest.mark.parametrize(
    "name", ["", "keys/", "keys/A", "keys/a/b", "keys/../x", "signingKeys/features-a", "keys/a%2fb"]
)
def test_malformed_names_never_reach_the_server(keys: KeyRing, name: str) -> None:
    for use in (keys.create_data_key, lambda n: keys.unwrap(n, b"vault:v1:AA")):
        with pytest.raises(InvalidArgumentError) as caught:
            use(name)
        assert list(caught.value.fields) == ["key"]


def test_racers_for_a_pseudonym_key_get_the_same(vault: Vault) -> None:
    for round_ in range(5):
        with ThreadPoolExecutor(8) as pool:
            found = set(pool.map(KeyRing(vault).pseudonym_key, [f"pseudonymKeys/race{round_}"] * 8))
        assert len(found) == 1
        assert len(found.pop()) == 32


def test_a_pseudonym_key_is_stable_and_differs_by_domain(keys: KeyRing) -> None:
    first = keys.pseudonym_key("pseudonymKeys/clients")
    assert keys.pseudonym_key("pseudonymKeys/clients") == first
    assert keys.pseudonym_key("pseudonymKeys/suppliers") != first


def test_a_pseudonym_key_cannot_be_overwritten(keys: KeyRing, vault: Vault) -> None:
    keys.pseudonym_key("pseudonymKeys/kept")
    with pytest.raises(VaultRefusedError):
        vault.write_record("pseudonym/kept", {"key": "AAAA"}, expected_version=1)


def test_signatures_verify_with_the_public_key(keys: KeyRing) -> None:
    signature, version = keys.sign("signingKeys/governance-audit", b"payload")
    public = Ed25519PublicKey.from_public_bytes(keys.verification_keys("signingKeys/governance-audit")[version])
    public.verify(signature, b"payload")
    with pytest.raises(InvalidSignature):
        public.verify(signature, b"payloae")


def test_signing_takes_1_byte_to_1_mib(keys: KeyRing) -> None:
    keys.sign("signingKeys/governance-audit", b"x" * 1024 * 1024)
    for payload in (b"", b"x" * (1024 * 1024 + 1)):
        with pytest.raises(InvalidArgumentError) as caught:
            keys.sign("signingKeys/governance-audit", payload)
        assert list(caught.value.fields) == ["payload"]


def test_verification_keys_of_a_key_that_does_not_exist(keys: KeyRing) -> None:
    with pytest.raises(NotFoundError):
        keys.verification_keys("signingKeys/governance-never_made")
