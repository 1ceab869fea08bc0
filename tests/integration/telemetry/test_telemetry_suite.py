"""The suite seen from outside: scraped by a real Prometheus, and traced from hop to hop."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import ssl
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from hedgerow.client import ServiceClient
from hedgerow.errors import NotFoundError
from hedgerow.features.v1 import features_pb2
from hedgerow.identity import Identity, IdentityFolder
from suite import right_sizing
from suite.config import SERVICES
from suite.scrape import scrape
from tests.support.authority import Authority
from tests.support.prometheus import prometheus
from tests.support.suite import RunningSuite

ROOT = Path(__file__).parents[3]
LISTED = "/hedgerow.features.v1.FeaturesService/ListFeatureViews"
FEATURES = features_pb2.DESCRIPTOR.services_by_name["FeaturesService"]
EXPORT_SECONDS = 60.0
# Of Prometheus itself.
FOREIGN = {"up", "ALERTS"}


@pytest.fixture
def scraper(whole_suite: RunningSuite) -> IdentityFolder:
    """An identity of the suite that is nobody's in particular."""
    return asyncio.run(whole_suite.person("operator"))


def ports(suite: RunningSuite) -> dict[str, int]:
    return {service: suite.config.metrics_port(service) for service in SERVICES}


def test_a_real_prometheus_scrapes_every_service_over_mutual_tls(
    whole_suite: RunningSuite, scraper: IdentityFolder, tmp_path: Path
) -> None:
    async def list_views(times: int) -> None:
        who = await whole_suite.person("ana")
        async with whole_suite.client(tmp_path / "ana", _kept(who), "features", FEATURES) as client:
            for _ in range(times):
                await client.call("ListFeatureViews", features_pb2.ListFeatureViewsRequest(), timeout=20)

    asyncio.run(list_views(3))
    labels = {"method": LISTED, "code": "OK"}
    counted = _value(scrape(scraper.folder, ports(whole_suite)["features"]), "hedgerow_rpc_handled_total", labels)
    assert counted is not None
    assert counted >= 3
    with prometheus(tmp_path / "prometheus", scraper.folder, ports(whole_suite)) as server:
        server.wait_for("up == 1", lambda found: {series["service"] for series, _ in found} == set(SERVICES))
        exact = f'hedgerow_rpc_handled_total{{service="features", method="{LISTED}", code="OK"}}'
        server.wait_for(exact, lambda found: [value for _, value in found] == [counted])
        asyncio.run(list_views(2))
        server.wait_for(exact, lambda found: [value for _, value in found] == [counted + 2])
        rules = [rule for group in server.get("/api/v1/rules")["groups"] for rule in group["rules"]]
        assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
        assert len(rules) == len(_rules())
        server.wait_for("service:hedgerow_rpc_handled:rate5m", lambda found: len(found) >= len(SERVICES))


def test_a_scraper_without_a_certificate_is_refused(
    whole_suite: RunningSuite, scraper: IdentityFolder, tmp_path: Path
) -> None:
    (port,) = [ports(whole_suite)["features"]]
    with prometheus(tmp_path / "prometheus", None, {"features": port}) as server:
        server.wait_for("up", lambda found: [value for _, value in found] == [0.0])
        (target,) = server.get("/api/v1/targets")["activeTargets"]
        assert "certificate required" in target["lastError"]
    stranger = IdentityFolder(tmp_path / "stranger")
    stranger.save(replace(Authority("another root").service("features"), roots_pem=_kept(scraper).roots_pem))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        scrape(stranger.folder, port)


def test_whatever_rules_and_dashboards_ask_for_is_exposed(whole_suite: RunningSuite, scraper: IdentityFolder) -> None:
    exposed: set[str] = set()
    for port in ports(whole_suite).values():
        for name, family in scrape(scraper.folder, port).items():
            suffixes = {"histogram": ("_bucket", "_count", "_sum"), "counter": ("_total",)}.get(family.type, ("",))
            exposed |= {name + suffix for suffix in suffixes}
    recorded = {rule["record"] for rule in _rules() if "record" in rule}
    asked = [rule["expr"] for rule in _rules()]
    for path in (ROOT / "deploy/grafana/dashboards").glob("*.json"):
        dashboard = json.loads(path.read_text())
        asked += [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    names = {name for expression in asked for name in _names(expression)} - recorded - FOREIGN
    assert len(names) > 40
    assert names <= exposed, names - exposed


def test_the_labels_of_the_suite_hold_nobody(whole_suite: RunningSuite, scraper: IdentityFolder) -> None:
    """Field case MON-03: what a caller sends is no label."""
    asyncio.run(_call_what_is_not_there(whole_suite))
    for service, port in ports(whole_suite).items():
        for family in scrape(scraper.folder, port).values():
            text = json.dumps([sample.labels for sample in family.samples])
            assert not re.search(r"spiffe://|made-up|ana\b|operator|[0-9a-f]{32}", text), (service, family.name)


def test_right_sizing_measures_the_running_suite(whole_suite: RunningSuite, tmp_path: Path) -> None:
    report = tmp_path / "right-sizing.json"
    folder = str(whole_suite.config.folder)
    assert right_sizing.main(["--dir", folder, "--seconds", "2", "--report", str(report)]) == 0
    content = json.loads(report.read_text())
    assert content["window_seconds"] >= 2
    assert {one["instance"] for one in content["services"]} == set(SERVICES)
    for one in content["services"]:
        assert one["memory_limit_mib"] > one["memory_request_mib"] >= one["memory_mib"] > 10
        assert one["cpu_request_millicores"] >= 50
    assert right_sizing.main(["--dir", str(tmp_path), "--seconds", "1", "--report", str(report)]) == 1


def test_one_trace_goes_through_every_service_a_call_passes(whole_suite: RunningSuite) -> None:
    trace_id = secrets.randbits(128) | 1
    context = SpanContext(trace_id, secrets.randbits(64) | 1, is_remote=False, trace_flags=TraceFlags(1))
    with trace.use_span(NonRecordingSpan(context)):
        asyncio.run(_call_what_is_not_there(whole_suite))
    first = _spans(whole_suite, "features", trace_id)
    second = _spans(whole_suite, "ingestion", trace_id)
    (view,) = [span for span in first if span["name"].endswith("/CreateFeatureView")]
    (dataset,) = [span for span in second if span["name"].endswith("/GetDataset")]
    assert view["parent_id"] == f"0x{context.span_id:016x}"
    assert dataset["parent_id"] == view["context"]["span_id"]
    assert "made-up" not in json.dumps([view, dataset])


async def _call_what_is_not_there(suite: RunningSuite) -> None:
    """Ask features for a view of a dataset that ingestion does not have."""
    who = await suite.person("ana")
    async with suite.client(suite.clients / "traced", _kept(who), "features", FEATURES) as client:
        assert isinstance(client, ServiceClient)
        view = features_pb2.FeatureView(dataset="datasets/made-up")
        request = features_pb2.CreateFeatureViewRequest(feature_view_id="made-up", feature_view=view)
        with pytest.raises(NotFoundError):
            await client.call("CreateFeatureView", request, timeout=20, purpose="credit_risk")


def _rules() -> list[dict[str, Any]]:
    files = [yaml.safe_load(path.read_text()) for path in (ROOT / "deploy/prometheus/rules").glob("*.yml")]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def _kept(folder: IdentityFolder) -> Identity:
    identity = folder.current()
    assert identity is not None
    return identity


def _spans(suite: RunningSuite, service: str, trace_id: int) -> list[dict[str, Any]]:
    """Return the spans of a trace that a service exported, once there are any."""
    path = suite.config.service_folder(service) / "traces.jsonl"
    deadline = time.monotonic() + EXPORT_SECONDS
    while True:
        spans = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        found = [span for span in spans if span["context"]["trace_id"] == f"0x{trace_id:032x}"]
        if found:
            return found
        assert time.monotonic() < deadline, f"{service} exported no span of the trace"
        time.sleep(0.2)


def _value(families: dict[str, Any], name: str, labels: dict[str, str]) -> float | None:
    for family in families.values():
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return float(sample.value)
    return None


def _names(expression: str) -> set[str]:
    """Return the metrics that an expression reads."""
    words = r"\b(by|on|without|ignoring|group_left|group_right)\b *(\([^)]*\))?"
    bare = re.sub(rf'"[^"]*"|{words}|\{{[^}}]*\}}|\[[^\]]*\]', " ", expression)
    return set(re.findall(r"[a-z][\w:]*_[\w:]+(?!\w*\s*\()", bare)) | (FOREIGN & set(re.findall(r"\w+", bare)))
