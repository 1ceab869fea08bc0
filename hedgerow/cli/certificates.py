"""`hedgerow certificates`: revoke one, and show which are revoked."""

import re

import click

from hedgerow.cli import output
from hedgerow.cli.session import Settings, pass_settings

_SERIAL = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2})+|[0-9a-fA-F]+")


class _Serial(click.ParamType[str]):
    """A serial number in hexadecimal as tools print it: in capitals, with leading zeros, or in pairs with colons."""

    name = "serial"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not _SERIAL.fullmatch(value):
            self.fail(f"{value!r} is not a serial number in hexadecimal, such as 3f9a12bc or 3F:9A:12:BC", param, ctx)
        return value.replace(":", "").lower().lstrip("0")


@click.group()
def certificates() -> None:
    """Revokes certificates, and shows which are revoked."""


@certificates.command("revoke")
@click.argument("serial", type=_Serial())
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_settings
def revoke(settings: Settings, serial: str, yes: bool) -> None:
    """Revokes, as an operator, the certificate with the number SERIAL; there is no way back.

    Within seconds every service refuses its holder, who can get another one with a password or a token: see the guide.
    `openssl x509 -noout -serial -in FILE` shows the number of a certificate.
    """
    if not yes:
        click.confirm(
            f"Revoke the certificate {serial}, so that every service refuses its holder?", abort=True, err=True
        )
    revoke_time = settings.run(lambda caller: caller.secrets.revoke_certificate(serial))
    if settings.as_json:
        output.print_json({"serial": serial, "revoke_time": f"{revoke_time:%Y-%m-%dT%H:%M:%SZ}"})
    else:
        click.echo(f"{serial} is revoked since {revoke_time:%Y-%m-%d %H:%M:%S UTC}")


@certificates.command("revoked")
@pass_settings
def revoked(settings: Settings) -> None:
    """Lists the serial numbers of revoked certificates; one that has expired since is refused for that, and not shown."""
    serials = settings.run(lambda caller: caller.secrets.list_revoked_serials())
    output.show([{"serial": serial} for serial in serials], ["serial"], settings.as_json)
