"""Writes ``deploy/grafana/dashboards``: ``python -m deploy.grafana.build``. What is committed is what this writes.

One dashboard for the suite, one template for a service of any name and one for each service with what only it has, and
three across them: the health of models, privacy and security, and cost.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from deploy.grafana.across import SERVICES, cost, models, privacy, suite
from deploy.grafana.panels import Row, Variable, dashboard
from deploy.grafana.service_rows import OWN, calls, process, saturation

FOLDER: Final = Path(__file__).parent / "dashboards"


def dashboards() -> dict[str, dict[str, Any]]:
    """Return every dashboard by the name of its file."""
    chosen = 'service=~"$service"'
    built = {
        "suite": suite(),
        "service": dashboard(
            "hedgerow-service",
            "Hedgerow: any service",
            [calls(chosen), saturation(chosen), process(chosen)],
            [Variable("service", "hedgerow_rpc_capacity", "service")],
        ),
        "models": models(),
        "privacy": privacy(),
        "cost": cost(),
    }
    for service in SERVICES:
        own = f'service="{service}"'
        rows = [Row("What it is for", OWN[service]), calls(own), saturation(own), process(own)]
        built[f"service-{service}"] = dashboard(f"hedgerow-{service}", f"Hedgerow: {service}", rows)
    return built


def written(content: dict[str, Any]) -> str:
    """Return a dashboard as its file holds it."""
    return json.dumps(content, indent=1) + "\n"


def main() -> None:
    """Write all files, and remove those of dashboards that are no more."""
    FOLDER.mkdir(exist_ok=True)
    built = dashboards()
    for name, content in built.items():
        (FOLDER / f"{name}.json").write_text(written(content))
    for path in FOLDER.glob("*.json"):
        if path.stem not in built:
            path.unlink()


if __name__ == "__main__":
    main()
