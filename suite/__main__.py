"""``python -m suite``: the suite on one machine."""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from hedgerow.private_file import write_private
from hedgerow.sdk.context import Context
from suite.config import EMBEDDED, PROFILES, SERVICES, SuiteConfig, SuiteConfigError, load_config
from suite.detach import detach
from suite.guard import end_marked
from suite.local_units import LocalSuite
from suite.ports import taken
from suite.process import start_ticks
from suite.run_file import RunFolder, RunState
from suite.status import collect, show
from suite.supervisor import Supervisor
from suite.unit import UnitError

DOWN_SECONDS = 90.0
FORMER_SECONDS = 3.0
_PAGE = 4096


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        config = load_config(
            folder=options.dir,
            profile=options.profile,
            port_base=options.port_base,
            ports=dict(options.port),
            only=options.only,
            file=options.config,
        )
    except SuiteConfigError as error:
        print(f"configuration: {error}", file=sys.stderr)
        return 2
    folder = RunFolder(config.folder / "run")
    if options.command == "up":
        if fault := _not_writable(config.folder) or _of_another_profile(config):
            print(fault, file=sys.stderr)
            return 1
        return detach(_without_detach(arguments), config, folder) if options.detach else _up(config, folder)
    if options.command == "down":
        return _down(folder)
    return _status(config, folder, as_json=options.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m suite", description="The Hedgerow suite on one machine.")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--dir", type=Path, help="folder of everything the suite keeps (var/local or var/distributed)")
    common.add_argument("--config", type=Path, default=Path("suite.toml"), help="configuration file (suite.toml)")
    common.add_argument("--profile", help=f"{' or '.join(PROFILES)} (embedded)")
    common.add_argument("--port-base", type=int, help="the lowest port; all others move with it (7440)")
    common.add_argument("--port", type=_port, action="append", default=[], metavar="NAME=NUMBER", help="one port")
    common.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="run this service and secrets alone"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", parents=[common], help="start the suite")
    up.add_argument("--detach", action="store_true", help="return when it serves, and leave it running")
    commands.add_parser("down", parents=[common], help="stop the suite")
    status = commands.add_parser("status", parents=[common], help="show each service's health")
    status.add_argument("--json", action="store_true", help="for programs")
    return parser


def _not_writable(folder: Path) -> str:
    """Return why the suite cannot keep anything in a folder; empty when it can."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder) as file:
            # A full disk still makes empty files.
            file.write(bytes(_PAGE))
        return ""
    except OSError as error:
        return (
            f"the suite cannot write to {folder}: {error.strerror}. Name another folder with HEDGEROW_DIR=FOLDER, "
            "or dir under [suite] in suite.toml"
        )


def _of_another_profile(config: SuiteConfig) -> str:
    """Return why the folder is of no use to this profile; empty when it is. The first suite in a folder marks it."""
    mark = config.folder / "profile"
    if not mark.exists():
        # A suite from before there was a choice.
        former = EMBEDDED if (config.folder / "openbao").exists() else config.profile
        write_private(mark, former.encode())
    former = mark.read_text()
    if former == config.profile:
        return ""
    return (
        f"{config.folder} holds a suite of the profile {former}, and its data is not carried over to {config.profile}. "
        f"Start it with PROFILE={former}, or name another folder with HEDGEROW_DIR=FOLDER"
    )


def _port(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    return name, int(number)


# ---- up


def _up(config: SuiteConfig, folder: RunFolder) -> int:
    say = functools.partial(print, flush=True)  # a detached supervisor's lines are relayed as they come
    if not folder.lock():
        state = folder.read()
        say(f"The suite is running already (pid {state.pid if state else '?'}).")
        return 0
    former = folder.read()
    if former is not None:
        # Only what carries the mark of that run, and only if its guard was ended too.
        end_marked(former.run)
    faults = taken(config.all_ports())
    # What a killed run leaves behind still holds its ports for a moment while it dies.
    deadline = time.monotonic() + FORMER_SECONDS
    while faults and former is not None and time.monotonic() < deadline:
        time.sleep(0.1)
        faults = taken(config.all_ports())
    if faults:
        for fault in faults:
            print(fault, file=sys.stderr)
        return 1
    return asyncio.run(_supervise(config, folder, say))


async def _supervise(config: SuiteConfig, folder: RunFolder, say: Callable[[str], None]) -> int:
    started = time.monotonic()
    suite = LocalSuite(config)
    try:
        units = suite.units()
        supervisor = Supervisor(
            units, folder, ports=config.ports, say=lambda line: _progress(line, say, config, started)
        )
        supervisor.state.profile = config.profile
        code = await supervisor.run()
    except UnitError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"the suite cannot start: {error}", file=sys.stderr)
        return 1
    finally:
        await suite.close()
    if supervisor.state.failure:
        print(supervisor.state.failure, file=sys.stderr)
    return code


def _progress(line: str, say: Callable[[str], None], config: SuiteConfig, started: float) -> None:
    if line.split() == ["secrets", "serving"]:
        # From here on people can log in; whoever waits for the suite finds the context when it serves.
        try:
            _save_context(config)
        except OSError as error:
            say(f"the command line will not find the suite: context.json cannot be written ({error.strerror})")
    say(line)
    if line.split() == ["suite", "serving"]:
        say(f"Started in {time.monotonic() - started:.1f} s.")
        for reach in _how_to_reach(config):
            say(reach)


def _save_context(config: SuiteConfig) -> None:
    """Tell the command line where the suite is."""
    addresses = {service: config.address(service) for service in SERVICES}
    roots_pem = (config.folder / "trust" / "enrolment-ca.pem").read_bytes()
    Context(config.folder, addresses, config.address("enrolment"), config.trust_domain).save(roots_pem)


def _how_to_reach(config: SuiteConfig) -> list[str]:
    ports = " ".join(f"{instance} {config.port(instance)}" for instance in config.instances if instance != "secrets")
    named = "" if config.profile == EMBEDDED else f" PROFILE={config.profile}"
    return [
        f"gRPC on 127.0.0.1, mutual TLS: {ports}",
        f"For the command line: export HEDGEROW_CONTEXT={config.folder}",
        f"People and passwords: {config.folder}/users/<name>/password (ana, ben, creditapp, mia, pia, operator)",
        f"CA to trust at login:  {config.folder}/trust/enrolment-ca.pem, port {config.ports['enrolment']}",
        f"Logs: {config.folder}/logs; stop with `make down{named}`, look with `make status{named}`",
    ]


def _without_detach(arguments: Sequence[str] | None) -> list[str]:
    return [argument for argument in (sys.argv[1:] if arguments is None else arguments) if argument != "--detach"]


# ---- down and status


def _down(folder: RunFolder) -> int:
    state = folder.read()
    if state is None or not state.is_alive():
        print("The suite is not running.")
        return 0
    fd = os.pidfd_open(state.pid)
    try:
        if start_ticks(state.pid) != state.start_ticks:
            print("The suite is not running.")
            return 0
        signal.pidfd_send_signal(fd, signal.SIGTERM)
        if not _ended(state, DOWN_SECONDS):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            print(f"The supervisor did not end within {DOWN_SECONDS:g} s and was killed.")
    finally:
        os.close(fd)
    end_marked(state.run)
    print("The suite is stopped.")
    return 0


def _ended(state: RunState, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while state.is_alive():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _status(config: SuiteConfig, folder: RunFolder, *, as_json: bool) -> int:
    state = folder.read()
    if state is None:
        print(
            json.dumps({"phase": "stopped", "healthy": False, "services": {}})
            if as_json
            else "The suite is not running."
        )
        return 1
    report = asyncio.run(collect(replace(config, ports=state.ports, profile=state.profile), state))
    if as_json:
        print(json.dumps(report, indent=1))
    else:
        show(report, Console())
    return 0 if report["healthy"] else 1


if __name__ == "__main__":
    sys.exit(main())
