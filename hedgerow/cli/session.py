"""Who calls which suite: settings of one run of the command, `login` and `status`."""

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from hedgerow.cli import output
from hedgerow.errors import DeadlineExceededError, HedgerowError, UnauthenticatedError, UnavailableError
from hedgerow.sdk import Context, Hedgerow
from hedgerow.sdk.context import login as log_in

_PROBE_SECONDS = 3.0
T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """The global options of one run of the command."""

    folder: str | None
    user: str | None
    purpose: str
    as_json: bool

    def context(self) -> Context:
        """Returns the suite in use."""
        return Context.load(Path(self.folder) if self.folder else None)

    def caller(self, context: Context) -> str:
        """Returns who calls: the one named, or the only one who logged in."""
        if self.user:
            return self.user
        users = context.folder / "users"
        known = sorted(path.name for path in users.iterdir() if path.is_dir()) if users.is_dir() else []
        if len(known) == 1:
            return known[0]
        way_out = f"name one with --as: {', '.join(known)}" if known else "log in first: hedgerow login NAME"
        raise UnauthenticatedError(f"it is not clear who calls; {way_out}")

    def spiffe_id(self, name: str) -> str:
        """Returns the SPIFFE ID of a person (`ana`) or of a name as the trail shows it (`service/features`)."""
        context = self.context()
        own = context.identity(self.caller(context)).load()
        if own is None or "://" in name:
            return name
        return f"spiffe://{own.trust_domain}/{name if '/' in name else f'user/{name}'}"

    def run(self, work: Callable[[Hedgerow], Awaitable[T]]) -> T:
        """Connects as the caller, does the work and returns its result."""
        context = self.context()
        identity = context.identity(self.caller(context))
        current = identity.load()
        if current is None or current.expire_time <= dt.datetime.now(dt.UTC):
            name = identity.folder.name
            raise UnauthenticatedError(f"{name} has no valid certificate here; log in: hedgerow login {name}")

        async def connected() -> T:
            async with Hedgerow.connect(identity, context.addresses, purpose=self.purpose) as hedgerow:
                return await work(hedgerow)

        return asyncio.run(connected())


pass_settings = click.make_pass_decorator(Settings)


@click.command()
@click.argument("name")
@click.option(
    "--password-file", type=click.Path(exists=True, dir_okay=False), help="File whose first line is the password."
)
@pass_settings
def login(settings: Settings, name: str, password_file: str | None) -> None:
    """Gets a short-lived certificate for the person NAME; asks for the password."""
    if password_file:
        password = Path(password_file).read_text(encoding="utf-8").partition("\n")[0]
    else:
        password = click.prompt("Password", hide_input=True)
    context = settings.context()
    try:
        folder = asyncio.run(log_in(context, name, password))
    except DeadlineExceededError as error:
        # Enrolment waits for a port that opens; there was none.
        raise UnavailableError(f"nothing answers at {context.enrolment}, where people log in") from error
    identity = folder.load()
    if identity is None:
        raise UnauthenticatedError(f"the certificate in {folder.folder} cannot be read; log in again")
    if settings.as_json:
        output.print_json(
            {"spiffe_id": identity.spiffe_id, "expire_time": f"{identity.expire_time:%Y-%m-%dT%H:%M:%SZ}"}
        )
    else:
        click.echo(f"{identity.spiffe_id} until {identity.expire_time:%Y-%m-%d %H:%M UTC}")


@click.command()
@pass_settings
def status(settings: Settings) -> None:
    """Asks each service for an answer and says which of them give one."""
    context = settings.context()

    async def probe(hedgerow: Hedgerow) -> list[dict[str, Any]]:
        calls: dict[str, Awaitable[object]] = {
            "ingestion": _first(hedgerow.ingestion.list_datasets()),
            "features": _first(hedgerow.features.list_feature_views()),
            "training": _first(hedgerow.training.list_training_runs()),
            "inference": _first(hedgerow.inference.list_deployments()),
            "secrets": hedgerow.secrets.get_verification_keys("signingKeys/governance-policy"),
            "governance": hedgerow.governance.get_policy_bundle(),
        }
        answers = await asyncio.gather(*(_answer(call) for call in calls.values()))
        return [
            {"service": service, "address": context.addresses[service], "state": answer}
            for service, answer in zip(calls, answers, strict=True)
        ]

    rows = settings.run(probe)
    output.show(rows, ["service", "address", "state"], settings.as_json)
    if any(row["state"].startswith("away") for row in rows):
        raise click.exceptions.Exit(1)


async def _first(items: Any) -> object:
    async for item in items:
        return item
    return None


async def _answer(call: Awaitable[object]) -> str:
    try:
        await asyncio.wait_for(call, _PROBE_SECONDS)
    except TimeoutError:
        return "away: no answer"
    except UnavailableError:
        return "away: cannot be reached"
    except HedgerowError as error:
        # A refusal is an answer: the service is up and this caller has no right to the question.
        if error.code_name in ("PERMISSION_DENIED", "NOT_FOUND", "INVALID_ARGUMENT"):
            return "up"
        return f"away: {error.message}"
    return "up"
