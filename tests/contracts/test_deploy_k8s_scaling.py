"""``deploy/k8s/components``: replicas come with everything that they share, and the scalers decide how many there are."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml
from prometheus_client import CollectorRegistry

from libs.telemetry import CallMetrics
from suite.bootstrap_ca import BootstrapFolder
from suite.config import DISTRIBUTED, REPLICATED, SERVICES, SuiteConfig
from suite.stores import Stores
from tests.contracts.test_deploy_k8s import (
    FOLDER,
    VERSIONS,
    claims,
    container,
    environment,
    kinds,
    loaded,
    overlay,
    rendered,
)
from tests.support.prometheus import program

SCALERS = {"autoscaling": "HorizontalPodAutoscaler", "keda": "ScaledObject"}
COMPONENTS = ("replicas", *SCALERS)
SCRAPE_CONFIG = FOLDER / "prometheus" / "scrape.yml"
Documents = tuple[dict[str, Any], ...]


@pytest.fixture(params=COMPONENTS)
def component(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def documents(component: str, tmp_path_factory: pytest.TempPathFactory) -> Documents:
    return with_component("eks", component, tmp_path_factory)


def with_component(name: str, component: str, folders: pytest.TempPathFactory) -> Documents:
    """Return an overlay with a component, as somebody would put them together."""
    folder = folders.getbasetemp() / f"{name}-{component}"
    if not folder.exists():
        folder.mkdir()
        relative = os.path.relpath(FOLDER, folder)
        content = {"resources": [f"{relative}/overlays/{name}"], "components": [f"{relative}/components/{component}"]}
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(content))
    return rendered(folder)


def workloads(documents: Documents) -> dict[str, dict[str, Any]]:
    return {name: one["spec"] for name, one in kinds(documents, "StatefulSet").items()}


def pod(documents: Documents, service: str) -> dict[str, Any]:
    return dict(workloads(documents)[service]["template"]["spec"])


def mounted(documents: Documents, service: str, folder: str) -> dict[str, Any]:
    """Return the volume that a service sees at a path."""
    (mount,) = [one for one in container(pod(documents, service))["volumeMounts"] if one["mountPath"] == folder]
    (volume,) = [one for one in pod(documents, service)["volumes"] if one["name"] == mount["name"]]
    return dict(volume)


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_of_the_api_takes_an_overlay_with_a_component(documents: Documents, version: str) -> None:
    for one in documents:
        # KEDA's own kind is in no schema of Kubernetes.
        if one["kind"] != "ScaledObject":
            kubernetes_validate.validate(one, version, strict=True)


def test_a_component_goes_with_every_overlay(component: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in ("kind", "aks", "gke"):
        assert set(workloads(with_component(name, component, tmp_path_factory))) == set(SERVICES)


# What replicas share --------------------------------------------------------------------------------------------------


def test_a_scaled_service_has_no_number_of_replicas_that_an_apply_would_set_again(
    documents: Documents, component: str
) -> None:
    expected = {"replicas": 2}.get(component)
    for service, spec in workloads(documents).items():
        assert spec.get("replicas") == (expected if service in REPLICATED else 1), service


def test_every_service_reaches_the_stores_that_it_has_in_the_distributed_profile(
    documents: Documents, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def nothing() -> None:
        """Certify nothing."""

    config = SuiteConfig(tmp_path, profile=DISTRIBUTED)
    stores = Stores(config, BootstrapFolder(tmp_path / "bootstrap", config.trust_domain), nothing)
    # Where S3 is and who asks is the platform's there: its own endpoint, and the identity of the workload.
    lake = {
        "HEDGEROW_LAKE_ENDPOINT",
        "HEDGEROW_LAKE_CA_FILE",
        "HEDGEROW_LAKE_ACCESS_KEY",
        "HEDGEROW_LAKE_SECRET_KEY_FILE",
    }
    for service in SERVICES:
        told = environment(documents, service)
        expected = set(stores.environment(service)) - lake - {"SSL_CERT_FILE"}
        assert {name for name in told if re.search("DATABASE|ONLINE|LAKE_LOCATION", name)} == expected
        if service in REPLICATED:
            assert loaded(documents, service, monkeypatch).shared_dir
        else:
            assert "HEDGEROW_SHARED_DIR" not in told
        if service != "secrets":
            assert "sslmode=verify-full" in told["HEDGEROW_DATABASE_URL"]
            folder = re.search(r"sslrootcert=(\S+)/ca\.pem", told["HEDGEROW_DATABASE_URL"])
            assert folder
            assert mounted(documents, service, folder[1])["configMap"]["name"] == "hedgerow-stores-ca"


def test_replicas_share_a_volume_of_many_writers_and_no_other(documents: Documents) -> None:
    volumes = kinds(documents, "PersistentVolumeClaim")
    for service, spec in workloads(documents).items():
        claimed = {
            one["persistentVolumeClaim"]["claimName"]
            for one in pod(documents, service)["volumes"]
            if "persistentVolumeClaim" in one
        }
        assert claimed == ({f"shared-{service}"} if service in REPLICATED else set())
        assert all(volumes[name]["spec"]["accessModes"] == ["ReadWriteMany"] for name in claimed)
        if claimed:
            folder = environment(documents, service)["HEDGEROW_SHARED_DIR"]
            assert mounted(documents, service, folder)["persistentVolumeClaim"]["claimName"] in claimed
        # Nothing ties the replicas to one node.
        assert "affinity" not in spec["template"]["spec"]
    classes = {"hedgerow", "hedgerow-shared"}
    assert {claim["storageClassName"] for claim in claims(documents)} == classes
    assert not environment(documents, "ingestion")["HEDGEROW_LAKE_LOCATION"].startswith("file:")


def test_a_pod_sees_its_own_passwords_of_the_one_secret_alone(documents: Documents) -> None:
    assert not kinds(documents, "Secret")
    seen: list[str] = []
    for service in SERVICES:
        secrets = [volume["secret"] for volume in pod(documents, service)["volumes"] if "secret" in volume]
        files = {value for name, value in environment(documents, service).items() if name.endswith("_PASSWORD_FILE")}
        assert bool(files) == (service != "secrets")
        for secret in secrets:
            assert secret["secretName"] == "hedgerow-stores"
            assert secret["defaultMode"] == 0o440
            seen += [item["key"] for item in secret["items"]]
            assert files == {f"/etc/hedgerow/passwords/{item['path']}" for item in secret["items"]}
            assert mounted(documents, service, "/etc/hedgerow/passwords")["secret"] == secret
    assert sorted(seen) == sorted([*(service for service in SERVICES if service != "secrets"), "online"])


def ports_told(documents: Documents, service: str) -> set[int]:
    """Return the ports of the stores that a service is told of."""
    told = environment(documents, service)
    found = {urlsplit(value).port for name, value in told.items() if name.endswith(("DATABASE_URL", "ONLINE_URL"))}
    lake = {443, 8333} if "HEDGEROW_LAKE_REGION" in told else set()
    return {port for port in found if port} | lake


def ports_let_out(documents: Documents, service: str) -> set[int]:
    """Return the ports outside the namespace that the network lets a service reach."""
    found = set()
    for policy in kinds(documents, "NetworkPolicy").values():
        selector = policy["spec"]["podSelector"]
        names = [selector["matchLabels"]["app.kubernetes.io/name"]] if "matchLabels" in selector else []
        names += [name for one in selector.get("matchExpressions", []) for name in one["values"]]
        for rule in policy["spec"].get("egress", []) if service in names else []:
            if any("ipBlock" in peer for peer in rule["to"]):
                found |= {port["port"] for port in rule["ports"]}
    return found


def test_the_network_lets_each_service_out_to_its_stores_and_no_further(documents: Documents) -> None:
    assert ports_told(documents, "features") == {5432, 6379, 443, 8333}
    for service in SERVICES:
        assert ports_let_out(documents, service) == ports_told(documents, service), service
        assert not ports_let_out(overlay("eks"), service)
    # The keys of the node's own identity are behind it.
    for rule in kinds(documents, "NetworkPolicy")["to-lake"]["spec"]["egress"]:
        for peer in rule["to"]:
            assert peer["ipBlock"]["cidr"] != "0.0.0.0/0" or peer["ipBlock"]["except"] == ["169.254.0.0/16"]


def test_callers_go_round_the_replicas(documents: Documents) -> None:
    services = kinds(documents, "Service")
    for service in SERVICES:
        peers = json.loads(environment(documents, service)["HEDGEROW_PEERS"])
        assert set(peers) == set(SERVICES)
        for replicated in REPLICATED:
            host, _, port = peers[replicated].removeprefix("dns:///").partition(":")
            name, namespace, _ = host.split(".")
            found = services[name]
            assert (found["metadata"]["namespace"], found["spec"]["clusterIP"]) == (namespace, "None")
            assert found["spec"]["selector"] == {"app.kubernetes.io/name": replicated}
            assert [int(port)] == [one["port"] for one in found["spec"]["ports"]]


# Scalers --------------------------------------------------------------------------------------------------------------


def scalers(component: str, folders: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    found = kinds(with_component("eks", component, folders), SCALERS[component])
    assert set(found) == set(REPLICATED)
    for name, scaler in found.items():
        assert scaler["spec"]["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": name}
    return {name: scaler["spec"] for name, scaler in found.items()}


def test_both_scalers_have_one_pace_one_target_and_a_metric_that_services_have(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    names = {metric.name for metric in CallMetrics(CollectorRegistry()).registry.collect()}
    keda = scalers("keda", tmp_path_factory)
    for name, hpa in scalers("autoscaling", tmp_path_factory).items():
        (metric,), (trigger,) = hpa["metrics"], keda[name]["triggers"]
        assert metric["pods"]["metric"]["name"] in names
        assert re.findall(r"hedgerow_\w+", trigger["metadata"]["query"]) == [metric["pods"]["metric"]["name"]]
        assert metric["pods"]["target"]["averageValue"] == trigger["metadata"]["threshold"]
        assert trigger["metricType"] == metric["pods"]["target"]["type"] == "AverageValue"
        assert 2 <= hpa["minReplicas"] <= hpa["maxReplicas"]
        bounds = (keda[name]["minReplicaCount"], keda[name]["maxReplicaCount"])
        assert bounds == (hpa["minReplicas"], hpa["maxReplicas"])
        assert keda[name]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == hpa["behavior"]
        assert hpa["behavior"]["scaleDown"]["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 60}]


def test_the_scrape_config_is_one_that_prometheus_takes(tmp_path: Path) -> None:
    content = yaml.safe_load(SCRAPE_CONFIG.read_text())
    for job in content["scrape_configs"]:
        # Debian's build knows no discovery in a cluster.
        del job["kubernetes_sd_configs"]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(content))
    done = subprocess.run(
        [program("promtool"), "check", "config", "--syntax-only", str(tmp_path / "prometheus.yml")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_gives_the_labels_that_scalers_and_rules_ask_for(tmp_path_factory: pytest.TempPathFactory) -> None:
    jobs = {job["job_name"]: job for job in yaml.safe_load(SCRAPE_CONFIG.read_text())["scrape_configs"]}
    assert list(jobs) == list(SERVICES)
    for name, job in jobs.items():
        assert job["scheme"] == "https"
        assert job["tls_config"]["server_name"] == f"{name}.hedgerow.local"
        (discovery,) = job["kubernetes_sd_configs"]
        assert discovery["namespaces"] == {"names": ["hedgerow"]}
        assert discovery["selectors"] == [{"role": "pod", "label": f"app.kubernetes.io/name={name}"}]
        given = {
            rule["target_label"]: rule["source_labels"] for rule in job["relabel_configs"] if "target_label" in rule
        }
        assert given["service"] == ["__meta_kubernetes_pod_label_app_kubernetes_io_name"]
        assert set(given) == {"service", "namespace", "pod"}
    for name, spec in scalers("keda", tmp_path_factory).items():
        query = spec["triggers"][0]["metadata"]["query"]
        assert dict(re.findall(r'(\w+)="([^"]*)"', query)) == {"namespace": "hedgerow", "service": name}
