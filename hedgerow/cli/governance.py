"""`hedgerow audit`, `hedgerow erase` and `hedgerow policies`."""

import base64
import json
import sys
from pathlib import Path
from typing import Any

import click

from hedgerow import names
from hedgerow.cli import output, progress
from hedgerow.cli.resources import take
from hedgerow.cli.session import Settings, pass_settings
from hedgerow.errors import DataLossError, InvalidArgumentError
from hedgerow.sdk import Hedgerow

_SHOWN_NAME = 100


@click.group()
def audit() -> None:
    """Shows and verifies the audit trail."""


@audit.command("list")
@click.option("--actor", default="", help="Only events of this caller, such as ana or service/features.")
@click.option("--action", default="", help="Only events of this action, such as features.GetOnlineFeatures.")
@click.option("--decision", type=click.Choice(["permit", "deny"]), default=None, help="Only events with this decision.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many.")
@pass_settings
def audit_list(settings: Settings, actor: str, action: str, decision: str | None, limit: int) -> None:
    """Lists audit events, newest first; an event appears once its writer has sealed it, at the latest with a `verify`."""
    full_actor = settings.spiffe_id(actor) if actor else ""

    async def work(caller: Hedgerow) -> list[dict[str, Any]]:
        events = caller.governance.list_audit_events(actor=full_actor, action=action, decision=decision or "")
        return await take(events, limit)

    columns = ["event_time", "actor", "action", "resources", "purpose", "decision", "policies", "code", "count"]
    output.show(settings.run(work), columns, settings.as_json)


@audit.command("verify")
@pass_settings
def audit_verify(settings: Settings) -> None:
    """Verifies the whole trail up to now; the exit code is 1 when something does not verify."""

    async def work(caller: Hedgerow) -> Any:
        return await caller.governance.verify_audit_trail()

    answer = settings.run(work)
    if settings.as_json:
        output.print_json(output.as_dict(answer))
    else:
        verdict = "verified" if answer.verified else "NOT VERIFIED"
        click.echo(f"{verdict}: {answer.event_count:,} events in {answer.segment_count:,} segments")
        for fault in answer.faults:
            click.echo(f"  {fault}")
        for anchor in answer.anchors:
            gone = f"{anchor.service} {anchor.instance}, events {anchor.first_sequence:,} to {anchor.last_sequence:,}"
            click.echo(f"  gone and accepted by {anchor.actor}: {gone}: {anchor.reason}")
    if not answer.verified:
        raise click.exceptions.Exit(1)


@audit.command("export")
@click.argument("folder", type=click.Path(file_okay=False))
@pass_settings
def audit_export(settings: Settings, folder: str) -> None:
    """Writes the trail and the public keys to FOLDER, for verification by someone who trusts no service."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)

    async def work(caller: Hedgerow) -> int:
        writers: set[str] = set()
        count = 0
        async for segment in caller.governance.export_audit_trail():
            name = _file_name("auditSegments/{segment}", segment.name)
            (target / f"{name}.segment").write_bytes(segment.content)
            (target / f"{name}.checkpoint").write_text(segment.checkpoint, encoding="utf-8")
            writers.add(name.partition("-")[0])
            count += 1
        keys = {writer: await _keys(caller, f"{writer}-audit") for writer in sorted(writers)}
        for anchor in (await caller.governance.verify_audit_trail(seal_first=False)).anchors:
            name = _file_name("auditAnchors/{anchor}", anchor.name)
            (target / f"{name}.anchor").write_text(anchor.statement, encoding="utf-8")
            keys["governance-anchors"] = await _keys(caller, "governance-anchors")
        (target / "keys.json").write_text(json.dumps(keys, indent=2), encoding="utf-8")
        return count

    count = settings.run(work)
    if settings.as_json:
        output.print_json({"segments": count, "folder": str(target), "keys": str(target / "keys.json")})
        return
    click.echo(
        f"{count:,} segments in {target}; check them with: python -m libs.audit verify {target} --keys {target}/keys.json"
    )


def _file_name(pattern: str, name: str) -> str:
    """Returns the id in a name that a service sent, which is safe in a path.

    Raises:
        DataLossError: it is not such a name.
    """
    try:
        [found] = names.parse(pattern, name, field="name").values()
    except InvalidArgumentError as error:
        raise DataLossError(
            f"governance sent {name[:_SHOWN_NAME]!r}, which is no name of the form {pattern}"
        ) from error
    return found


async def _keys(caller: Hedgerow, name: str) -> list[str]:
    """Returns the base64 public keys of a signing key, all versions."""
    keys = await caller.secrets.get_verification_keys(f"signingKeys/{name}")
    return [base64.b64encode(key).decode() for _, key in sorted(keys.items())]


@audit.command("anchor")
@click.argument("service")
@click.argument("instance")
@click.option("--after", type=click.IntRange(0), required=True, help="The last event before the missing ones.")
@click.option("--reason", required=True, help="Why, in one line without personal data.")
@pass_settings
def audit_anchor(settings: Settings, service: str, instance: str, after: int, reason: str) -> None:
    """Accepts, as an operator, that events of SERVICE's writer INSTANCE are lost; each later `verify` says so."""

    async def work(caller: Hedgerow) -> Any:
        return await caller.governance.create_audit_anchor(service, instance, after, reason)

    output.show([output.as_dict(settings.run(work))], ["name", "first_sequence", "last_sequence"], settings.as_json)


@click.command()
@click.argument("subject")
@click.option(
    "--domain", required=True, help="The pseudonym domain of the subject, as its dataset's contract names it."
)
@click.option("--request-id", default="", help="A UUID that makes a repeat safe; made up when not given.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_settings
def erase(settings: Settings, subject: str, domain: str, request_id: str, yes: bool) -> None:
    """Erases one SUBJECT, named as the sources know it, from every store; there is no way back.

    A SUBJECT of `-` is read from standard input, so that it stays out of the shell's history.
    """
    if subject == "-":
        subject = sys.stdin.readline().strip()
    if not yes:
        click.confirm("Erase this subject everywhere, old versions included?", abort=True, err=True)

    async def work(caller: Hedgerow) -> Any:
        created = await caller.governance.create_erasure_request(domain, subject, request_id=request_id)
        with progress.work(created.name, settings.as_json) as told:
            return await caller.governance.wait_for_erasure(created.name, progress=told)

    receipt = output.as_dict(settings.run(work))
    if settings.as_json:
        output.print_json(receipt)
        return
    click.echo(f"{receipt['name']}: {output.text(receipt['state'])}")
    columns = [
        "service",
        "store",
        "objects_searched",
        "objects_rewritten",
        "objects_destroyed",
        "rows_erased",
        "remaining_hits",
    ]
    output.show(receipt["stores"], columns, as_json=False)
    if not any(int(store["rows_erased"]) for store in receipt["stores"]):
        click.echo(f"No row was about this subject. Is {domain} the pseudonym_domain of its datasets?")


@click.group()
def policies() -> None:
    """Shows and publishes the policies that decide every call."""


@policies.command("get")
@pass_settings
def policies_get(settings: Settings) -> None:
    """Shows the policy bundle in force."""
    bundle = settings.run(lambda caller: caller.governance.get_policy_bundle())
    form = output.as_dict(bundle)
    if settings.as_json:
        output.print_json(form | {"content": json.loads(bundle.content)})
        return
    content = json.loads(bundle.content)
    principals = content["principals"]
    click.echo(f"version {bundle.version}, signed by version {bundle.key_version} of signingKeys/governance-policy")
    rows = [{"principal": name} | duties for name, duties in sorted(principals.items())]
    output.show(rows, ["principal", "roles", "purposes"], as_json=False)


@policies.command("publish")
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@pass_settings
def policies_publish(settings: Settings, folder: str) -> None:
    """Publishes the *.cedar files and the principals.json in FOLDER in place of the bundle in force."""
    files = sorted(Path(folder).glob("*.cedar"))
    principals = Path(folder) / "principals.json"
    if not files or not principals.is_file():
        raise InvalidArgumentError(f"{folder} must hold at least one *.cedar file and a principals.json")
    cedar = "\n".join(file.read_text(encoding="utf-8") for file in files)

    async def work(caller: Hedgerow) -> Any:
        current = await caller.governance.get_policy_bundle()
        return await caller.governance.create_policy_bundle(cedar, principals.read_text(encoding="utf-8"), current.etag)

    bundle = settings.run(work)
    if settings.as_json:
        output.print_json({"version": bundle.version, "etag": bundle.etag})
    else:
        click.echo(f"version {bundle.version} is in force")
