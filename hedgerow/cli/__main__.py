"""Entry point of the `hedgerow` command: commands by group, and errors as one plain line."""

import sys
from collections.abc import Sequence

import click

from hedgerow.cli import data, governance, models, resources, session
from hedgerow.errors import HedgerowError, UnavailableError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--context", metavar="DIR", envvar="HEDGEROW_CONTEXT", help="Folder that tells where the suite is.")
@click.option("--as", "user", metavar="NAME", envvar="HEDGEROW_USER", help="Who calls; needed when several logged in.")
@click.option(
    "--purpose",
    metavar="PURPOSE",
    envvar="HEDGEROW_PURPOSE",
    default="",
    help="Why data is wanted, such as credit_risk.",
)
@click.option(
    "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Form of answers."
)
@click.version_option(package_name=None, version=__import__("hedgerow").__version__)
@click.pass_context
def cli(ctx: click.Context, context: str | None, user: str | None, purpose: str, output: str) -> None:
    """Takes an application from raw records to audited, explained predictions."""
    ctx.obj = session.Settings(context, user, purpose, output == "json")


for _command in (
    session.login,
    session.status,
    data.apply,
    data.ingest,
    models.train,
    models.promote,
    models.deploy,
    models.predict,
    models.explain,
    governance.audit,
    governance.erase,
    governance.policies,
    *resources.GROUPS,
):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns the exit code: 0, 1 when it failed, 2 when it was used wrongly."""
    try:
        code = cli.main(arguments, prog_name="hedgerow", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return _fail("stopped")
    except HedgerowError as error:
        return _fail(describe(error))
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    return code if isinstance(code, int) else 0


def describe(error: HedgerowError) -> str:
    """Returns an error as one line: what is wrong, where, and its code and reason."""
    fields = "; ".join(f"{path}: {what}" for path, what in error.fields.items() if what not in error.message)
    # What gRPC said of a service that is away; it never came over the wire.
    more = "; ".join(filter(None, (fields, *getattr(error, "__notes__", ()))))
    text = " ".join((error.message + (f" ({more})" if more else "")).split())
    if isinstance(error, UnavailableError):
        text += "; is the suite running? `hedgerow status` asks each service, `make up` starts it"
    if error.reason == "PURPOSE_NOT_PERMITTED" and error.metadata.get("purpose") == "":
        text += "; state one with --purpose"
    request = error.metadata.get("request_id", "")
    found = f", request {request}" if request else ""
    return f"{text} [{error.code_name} {error.reason}{found}]"


def _fail(message: str) -> int:
    click.echo(f"hedgerow: {message}", err=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
