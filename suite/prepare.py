"""``python -m suite.prepare``: what a platform (Compose, Kubernetes) needs before it can start the services by itself.

- ``openbao`` makes the bootstrap CA, the certificates and the configuration of a secret server that a container runs.
- ``services`` makes, in a secret server that is active, people, enrolment records and the signing key of the policies, and
  writes the pinned CA, the policies' public keys and the first policy bundle. With ``--tokens`` each service's folder also
  gets its credential: an enrolment token when the stored identity is no longer good, and for the secrets service what it
  logs in to the secret server with. Without, the platform's own tokens do both.

The secret server is that of ``[vault]`` in ``suite.toml``, else the one that ``openbao`` prepared. Both commands may run
again and again: what is there stays.
"""

from __future__ import annotations

import argparse
import datetime as dt
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hedgerow.errors import HedgerowError
from hedgerow.private_file import write_private
from services.secrets.attestation import RECORD_PREFIX
from services.secrets.vault import Vault, VaultSettings
from suite.bootstrap_ca import BootstrapFolder
from suite.config import SERVICES, SuiteConfig, SuiteConfigError, load_config
from suite.openbao import OpenBao
from suite.provision import Provisioner

PATIENCE_SECONDS = 60.0
TOKEN_FILE = "enrolment-token"  # noqa: S105 - a file name
POLL_SECONDS = 0.2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        config = load_config(folder=options.dir, file=options.config)
        if options.command == "openbao":
            local_openbao(config).prepare()
        else:
            prepare_services(config, options.tokens, options.also)
    except SuiteConfigError as error:
        print(f"configuration: {error}", file=sys.stderr)
        return 2
    except HedgerowError as error:
        print(f"prepare: {error.message}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m suite.prepare", description="Prepare a platform for the suite.")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--dir", type=Path, help="folder of what is written (var/local)")
    common.add_argument("--config", type=Path, default=Path("suite.toml"), help="configuration file (suite.toml)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("openbao", parents=[common], help="the secret server of a container")
    services = commands.add_parser("services", parents=[common], help="people, policies and trust for the services")
    services.add_argument(
        "--tokens", action="store_true", help="give each service an enrolment token where it needs one"
    )
    services.add_argument(
        "--also", action="append", default=[], metavar="NAME", help="one more workload that gets a token (prometheus)"
    )
    return parser


def local_openbao(config: SuiteConfig) -> OpenBao:
    """Return the secret server of the folder; it listens on 127.0.0.1 alone."""
    return OpenBao(
        config.folder / "openbao",
        BootstrapFolder(config.folder / "bootstrap", config.trust_domain),
        port=config.ports["openbao"],
        cluster_port=config.ports["openbao_cluster"],
    )


def prepare_services(config: SuiteConfig, tokens: bool, also: Sequence[str] = ()) -> None:
    """Prepare what the services need.

    Args:
        config: where to write, and which secret server.
        tokens: write ``<service>/enrolment-token`` where the stored identity is no longer good.
        also: more workloads that enrol by a token.

    Raises:
        HedgerowError: the secret server does not become active, or refuses.
    """
    vault = Vault(_supervisor(config))
    try:
        vault.wait_until_active(PATIENCE_SECONDS)
        if config.vault is None:
            _wait_until_complete(local_openbao(config))
        provisioner = Provisioner(config, vault)
        provisioner.prepare()
        for name in also:
            config.service_folder(name).mkdir(exist_ok=True, mode=0o700)
            if vault.read_record(RECORD_PREFIX + name) is None:
                vault.write_record(RECORD_PREFIX + name, {"service": name}, expected_version=0)
        if tokens:
            for name in (*(service for service in SERVICES if service != "secrets"), *also):
                _hand_over(provisioner, config, name)
            _hand_over_login(config)
    finally:
        vault.close()


def _supervisor(config: SuiteConfig) -> VaultSettings:
    vault = config.vault
    if vault is None:
        return local_openbao(config).settings("supervisor")
    return VaultSettings(
        vault.address, vault.ca_file, vault.supervisor_cert_file, vault.supervisor_key_file, role="hedgerow-supervisor"
    )


def _wait_until_complete(openbao: OpenBao) -> None:
    """Active is not enough at the first start: its initialisation must have come to its end."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not openbao.prove():
        if time.monotonic() > deadline:
            raise SuiteConfigError(
                "the secret server's first start did not complete; remove its volume and start again"
            )
        time.sleep(POLL_SECONDS)


def _hand_over(provisioner: Provisioner, config: SuiteConfig, service: str) -> None:
    """Move a fresh token into the service's own folder, the only one that its container sees."""
    made = provisioner.enrolment_token(service, dt.datetime.now(dt.UTC))
    if made.exists():
        write_private(config.service_folder(service) / TOKEN_FILE, made.read_bytes())
        made.unlink()


def _hand_over_login(config: SuiteConfig) -> None:
    """Copy the login of the secrets service, so that its container sees no other credential of the secret server."""
    vault = config.vault
    if vault is None:
        bootstrap = BootstrapFolder(config.folder / "bootstrap", config.trust_domain)
        ca, (certificate, key) = bootstrap.ca_file, bootstrap.certificate("secrets")
    else:
        ca, certificate, key = Path(vault.ca_file), Path(vault.secrets_cert_file), Path(vault.secrets_key_file)
    for name, source in {"ca.pem": ca, "secrets.pem": certificate, "secrets.key": key}.items():
        write_private(config.service_folder("secrets") / "vault" / name, source.read_bytes())


if __name__ == "__main__":
    sys.exit(main())
