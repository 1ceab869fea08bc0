"""``status``: how each service does, as a table for people or as JSON for programs."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from suite.config import SuiteConfig
from suite.guard import marked
from suite.local_units import OPENBAO, LocalSuite
from suite.process import resident_mib
from suite.run_file import RunState, ServiceState

_COLOURS = {"SERVING": "green", "active": "green", "starting": "yellow", "restarting": "yellow"}


async def collect(config: SuiteConfig, state: RunState) -> dict[str, Any]:
    """Return the state of a suite with the health of each service as of now."""
    suite = LocalSuite(config)
    try:
        health = await asyncio.gather(*(_health(suite, name, service) for name, service in state.services.items()))
    finally:
        await suite.close()
    alive = state.is_alive()
    services: dict[str, dict[str, Any]] = {
        name: {
            "health": found if alive else "stopped",
            "phase": service.phase if alive else "stopped",
            "pid": service.pid,
            "uptime_seconds": round(time.time() - service.since, 1) if service.phase == "serving" and alive else 0.0,
            "restarts": service.restarts,
            "rss_mib": sum(map(resident_mib, marked(state.run, name))) if alive else 0,
            "ports": service.ports,
            "last_exit": service.last_exit,
            "log": service.log,
        }
        for (name, service), found in zip(state.services.items(), health, strict=True)
    }
    supervisor = {"pid": state.pid, "rss_mib": resident_mib(state.pid) if alive else 0}
    return {
        "phase": state.phase if alive or state.phase in ("failed", "stopped") else "killed",
        "failure": state.failure,
        "healthy": alive and all(service["health"] in ("SERVING", "active") for service in services.values()),
        "rss_mib": supervisor["rss_mib"] + sum(service["rss_mib"] for service in services.values()),
        "folder": str(config.folder),
        "supervisor": supervisor,
        "services": services,
    }


async def _health(suite: LocalSuite, name: str, service: ServiceState) -> str:
    if service.phase in ("waiting", "stopped", "failed"):
        return service.phase
    if name == OPENBAO:
        return await asyncio.to_thread(suite.openbao.state)
    if name in suite.stores:
        return await suite.stores.health(name)
    return await suite.health.check(name)


def show(report: dict[str, Any], console: Console) -> None:
    """Print a report as a table."""
    table = Table(title=f"Hedgerow suite: {report['phase']}", title_justify="left")
    for name in ("service", "health"):
        table.add_column(name)
    for name in ("up", "restarts", "MiB"):
        table.add_column(name, justify="right")
    table.add_column("ports")
    for name, service in report["services"].items():
        colour = _COLOURS.get(service["health"], "red")
        ports = "  ".join(f"{use} {port}" for use, port in service["ports"].items())
        table.add_row(
            name,
            f"[{colour}]{service['health']}[/]",
            _duration(service["uptime_seconds"]),
            str(service["restarts"]),
            str(service["rss_mib"] or ""),
            ports,
        )
    console.print(table)
    for name, service in report["services"].items():
        if service["last_exit"]:
            console.print(f"{name}: {service['last_exit']}; log {service['log']}", highlight=False)
    if report["failure"]:
        console.print(f"[red]{report['failure']}[/]", highlight=False)
    console.print(f"{report['rss_mib']} MiB in all; folder {report['folder']}", highlight=False)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02}m" if hours else f"{minutes}m {rest:02}s" if seconds else ""
