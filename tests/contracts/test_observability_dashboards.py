"""``deploy/grafana``: what is committed is what the code builds, and Grafana can load it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana.build import FOLDER, dashboards, written
from suite.config import SERVICES
from tests.support.prometheus import ROOT, program

COMPOSE = ROOT / "deploy" / "compose"
FILES = sorted(FOLDER.glob("*.json"))
UNITS = {"short", "s", "bytes", "reqps", "percentunit"}
INTERVAL = "5m"


def loaded(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def panels(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from (panel for panel in content["panels"] if panel["type"] != "row")


def test_what_is_committed_is_what_is_built() -> None:
    built = dashboards()
    assert {path.stem for path in FILES} == set(built)
    for name, content in built.items():
        assert (FOLDER / f"{name}.json").read_text() == written(content), "run python -m deploy.grafana.build"


def test_the_suite_each_service_models_privacy_and_cost_have_one() -> None:
    names = {path.stem for path in FILES}
    assert names == {"suite", "service", "models", "privacy", "cost", *(f"service-{service}" for service in SERVICES)}
    uids = [loaded(path)["uid"] for path in FILES]
    assert len(set(uids)) == len(uids)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_dashboard_is_sound(path: Path) -> None:
    content = loaded(path)
    assert len(content["uid"]) <= 40
    assert content["title"].startswith("Hedgerow: ")
    numbers = [panel["id"] for panel in content["panels"]]
    assert len(set(numbers)) == len(numbers)
    variables = {variable["name"] for variable in content["templating"]["list"]}
    for panel in panels(content):
        assert panel["type"] in ("timeseries", "stat")
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        assert panel["datasource"] == {"type": "prometheus", "uid": "prometheus"}
        assert panel["targets"]
        for target in panel["targets"]:
            assert all(f"${name}" in target["expr"] for name in variables if f"${name}" in target["expr"])
            assert "$" not in _filled(target["expr"], variables)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_panels_fit_and_do_not_overlap(path: Path) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in loaded(path)["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_prometheus_can_parse_every_query(tmp_path: Path) -> None:
    import subprocess

    queries = [
        _filled(target["expr"], {variable["name"] for variable in content["templating"]["list"]})
        for content in map(loaded, FILES)
        for panel in panels(content)
        for target in panel["targets"]
    ]
    recorded = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": recorded}]}))
    done = subprocess.run(
        [program("promtool"), "check", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, f"{len(queries)} rules found" in done.stdout) == (0, True), done.stderr


def test_compose_mounts_what_is_here() -> None:
    services = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]
    mounts = {
        tuple(volume.split(":")[:2]) for name in ("prometheus", "grafana") for volume in services[name]["volumes"]
        if isinstance(volume, str) and volume.startswith(".")
    }  # fmt: skip
    for source, _ in mounts:
        assert (COMPOSE / source).exists(), source
    (provider,) = yaml.safe_load((COMPOSE / "grafana/provisioning/dashboards/hedgerow.yml").read_text())["providers"]
    assert ("../grafana/dashboards", provider["options"]["path"]) in mounts
    scraping = yaml.safe_load((COMPOSE / "prometheus.yml").read_text())
    assert [Path(pattern).suffix for pattern in scraping["rule_files"]] == [".yml"]
    assert ("../prometheus/rules", str(Path(scraping["rule_files"][0]).parent)) in mounts


def _filled(query: str, variables: set[str]) -> str:
    """Return a query as Grafana sends it when everything is chosen."""
    for name in variables:
        query = query.replace(f"${name}", ".*")
    return query.replace("$__rate_interval", INTERVAL)
