"""Entry point of the `hedgerow` command: commands by group, and errors as one plain line or as JSON."""

import dataclasses
import sys
from collections.abc import Sequence

import click

from hedgerow.cli import certificates, completion, data, governance, models, output, resources, runs, session
from hedgerow.errors import HedgerowError, UnavailableError

_ALIASES = {"runs": "training-runs"}
_FORMS = click.Choice(["text", "json"])


class _Root(click.Group):
    """Knows short names of commands."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, _ALIASES.get(cmd_name, cmd_name))


@click.group(cls=_Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--context", metavar="DIR", envvar="HEDGEROW_CONTEXT", help="Folder that tells where the suite is.")
@click.option(
    "--as",
    "user",
    metavar="NAME",
    envvar="HEDGEROW_USER",
    shell_complete=completion.people,
    help="Who calls; needed when several logged in.",
)
@click.option(
    "--purpose",
    metavar="PURPOSE",
    envvar="HEDGEROW_PURPOSE",
    default="",
    help="Why data is wanted, such as credit_risk.",
)
@click.option(
    "--output",
    "form",
    type=_FORMS,
    default="text",
    show_default=True,
    help="Form of answers, before or after a command.",
)
@click.version_option(package_name=None, version=__import__("hedgerow").__version__)
@click.pass_context
def cli(ctx: click.Context, context: str | None, user: str | None, purpose: str, form: str) -> None:
    """Takes an application from raw records to audited, explained predictions."""
    ctx.obj = session.Settings(context, user, purpose, form == "json")


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
    certificates.certificates,
    completion.completion,
    *resources.GROUPS,
):
    cli.add_command(_command)
resources.BY_COMMAND["training-runs"].add_command(runs.watch)
resources.BY_COMMAND["models"].add_command(runs.show)


def _set_form(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        root = ctx.find_root()
        root.obj = ctx.obj = dataclasses.replace(root.obj, as_json=value == "json")


def _take_form(group: click.Group) -> None:
    """Lets every command take `--output` after its own name too."""
    for command in group.commands.values():
        if isinstance(command, click.Group):
            _take_form(command)
        else:
            option = click.Option(
                ["--output"], type=_FORMS, expose_value=False, callback=_set_form, help="Form of the answer."
            )
            command.params.append(option)


_take_form(cli)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns the exit code.

    0; 1 when it failed; 2 when it was used wrongly; 4 when the call succeeded and an entity has no prediction.
    """
    words = sys.argv[1:] if arguments is None else arguments
    as_json = _wants_json(words)
    try:
        code = cli.main(words, prog_name="hedgerow", standalone_mode=False)
    except click.ClickException as error:
        if as_json:
            click.echo(output.failure_json("INVALID_ARGUMENT", error.format_message()), err=True)
        else:
            error.show()
        return error.exit_code
    except HedgerowError as error:
        click.echo(output.error_json(error, describe(error)) if as_json else f"hedgerow: {describe(error)}", err=True)
    except click.Abort:
        _tell("CANCELLED", "stopped", as_json)
    except OSError as error:
        _tell("FAILED_PRECONDITION", f"{error.filename}: {error.strerror}" if error.filename else str(error), as_json)
    else:
        return code if isinstance(code, int) else 0
    return 1


def _wants_json(words: Sequence[str]) -> bool:
    """Returns whether the last `--output` of a command line says `json`; one that cannot be parsed says so too."""
    form = ""
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if word == "--":
            break
        if word == "--output":
            form = following
        elif word.startswith("--output="):
            form = word.partition("=")[2]
    return form == "json"


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


def _tell(code: str, message: str, as_json: bool) -> None:
    click.echo(output.failure_json(code, message) if as_json else f"hedgerow: {message}", err=True)


if __name__ == "__main__":
    sys.exit(main())
