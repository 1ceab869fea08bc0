"""The few kinds of panels that the dashboards are made of, in the JSON that Grafana reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

SOURCE: Final = {"type": "prometheus", "uid": "prometheus"}
COLUMNS: Final = 24
HEIGHT: Final = 8
SCHEMA_VERSION: Final = 41


@dataclass(frozen=True, slots=True)
class Panel:
    """A graph or a number.

    Attributes:
        title: what it shows.
        queries: (expression, legend) each.
        unit: Grafana's name of the unit.
        help: what to make of it.
        kind: ``timeseries`` or ``stat``.
        width: of 24 columns.
        red_from: the value from which it is red, if any.
    """

    title: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    help: str = ""
    kind: str = "timeseries"
    width: int = 8
    red_from: float | None = None


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the top of a dashboard: the values of a label."""

    name: str
    metric: str
    label: str


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: Sequence[Panel]


def graph(title: str, *queries: tuple[str, str], unit: str = "short", help: str = "", width: int = 8) -> Panel:  # noqa: A002 - as Grafana says
    """Return a graph over time."""
    return Panel(title, queries, unit, help, width=width)


def number(title: str, query: str, unit: str = "short", red_from: float | None = None, width: int = 4) -> Panel:
    """Return one number."""
    return Panel(title, [(query, "")], unit, kind="stat", width=width, red_from=red_from)


def dashboard(uid: str, title: str, rows: Sequence[Row], variables: Sequence[Variable] = ()) -> dict[str, Any]:
    """Return a dashboard; panels go from left to right and then down."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        panels.append(_heading(len(panels) + 1, row.title, y))
        y += 1
        x, tallest = 0, 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            height = HEIGHT if panel.kind == "timeseries" else HEIGHT // 2
            position = {"x": x, "y": y, "w": panel.width, "h": height}
            panels.append(_panel(len(panels) + 1, panel, position))
            x, tallest = x + panel.width, max(tallest, height)
        y += tallest
    return {
        "uid": uid,
        "title": title,
        "tags": ["hedgerow"],
        "editable": False,
        "schemaVersion": SCHEMA_VERSION,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "links": [{"type": "dashboards", "tags": ["hedgerow"], "title": "Hedgerow", "asDropdown": True}],
        "templating": {"list": [_variable(variable) for variable in variables]},
        "annotations": {"list": [_alerts()]},
        "panels": panels,
    }


def _heading(number_: int, title: str, y: int) -> dict[str, Any]:
    return {
        "id": number_,
        "type": "row",
        "title": title,
        "collapsed": False,
        "panels": [],
        "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
    }


def _panel(number_: int, panel: Panel, position: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    options: dict[str, Any] = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    if panel.kind == "stat":
        steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
        if panel.red_from is not None:
            steps.append({"color": "red", "value": panel.red_from})
        defaults = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}, "noValue": "none"}
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
    return {
        "id": number_,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.help,
        "datasource": SOURCE,
        "gridPos": position,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
            for place, (expression, legend) in enumerate(panel.queries)
        ],
    }


def _variable(variable: Variable) -> dict[str, Any]:
    return {
        "name": variable.name,
        "label": variable.name.replace("_", " "),
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": f"label_values({variable.metric}, {variable.label})", "refId": variable.name},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "sort": 1,
    }


def _alerts() -> dict[str, Any]:
    return {
        "name": "Alerts",
        "datasource": SOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": 'ALERTS{alertstate="firing"}',
        "titleFormat": "{{alertname}}",
        "textFormat": "{{service}}",
    }
