"""Configuration: file, variables, flags, and clear words about what is wrong."""

from pathlib import Path

import pytest

from suite.config import DEFAULT_PORTS, SERVICES, SuiteConfig, SuiteConfigError, load_config


def load(tmp_path: Path, toml: str = "", environment: dict[str, str] | None = None, **flags: object) -> SuiteConfig:
    file = tmp_path / "suite.toml"
    file.write_text(toml)
    return load_config(file=file, environment=environment or {}, **flags)  # type: ignore[arg-type]


def fault(tmp_path: Path, toml: str = "", environment: dict[str, str] | None = None, **flags: object) -> str:
    with pytest.raises(SuiteConfigError) as caught:
        load(tmp_path, toml, environment, **flags)
    return str(caught.value)


def test_defaults_need_no_file(tmp_path: Path) -> None:
    config = load_config(file=tmp_path / "absent.toml", environment={})
    assert config.ports == DEFAULT_PORTS
    assert config.folder == Path("var/local").resolve()
    assert config.address("ingestion") == "127.0.0.1:7443"
    assert config.metrics_port("ingestion") == 7543
    assert config.services == list(SERVICES)
    assert len(config.all_ports()) == 15


def test_flags_beat_variables_beat_the_file(tmp_path: Path) -> None:
    toml = "[ports]\nfeatures = 1001\ntraining = 1002\ninference = 1003\n[suite]\ndir = 'x'\n"
    environment = {"HEDGEROW_PORT_TRAINING": "2002", "HEDGEROW_PORT_INFERENCE": "2003", "HEDGEROW_DIR": "/y"}
    config = load(tmp_path, toml, environment, ports={"inference": 3003}, folder=Path("/z"))
    assert (config.ports["features"], config.ports["training"], config.ports["inference"]) == (1001, 2002, 3003)
    assert config.folder == Path("/z")
    assert load(tmp_path, toml, environment).folder == Path("/y")


def test_the_base_moves_all_ports(tmp_path: Path) -> None:
    config = load(tmp_path, port_base=20_000)
    assert config.ports["secrets"] == 20_000
    assert config.ports["openbao"] == 20_030
    assert config.metrics_port("secrets") == 20_100
    assert load(tmp_path, environment={"HEDGEROW_PORT_BASE": "20000"}).ports == config.ports
    assert load(tmp_path, "[suite]\nport_base = 20000").ports == config.ports


def test_only_some_services_and_their_ports(tmp_path: Path) -> None:
    config = load(tmp_path, only=["governance"])
    assert config.services == ["secrets", "governance"]
    assert set(config.all_ports()) == {
        "openbao", "openbao_cluster", "enrolment", "secrets", "governance", "secrets metrics", "governance metrics",
    }  # fmt: skip


def test_the_distributed_profile_has_replicas_and_stores(tmp_path: Path) -> None:
    config = load(tmp_path, profile="distributed", port_base=20_000)
    assert config.folder == Path("var/distributed").resolve()
    assert config.instances == [
        "secrets", "governance", "ingestion", "features", "features-2", "training", "inference", "inference-2",
    ]  # fmt: skip
    assert config.address("features") == "127.0.0.1:20004,127.0.0.1:20014"
    assert config.address("ingestion") == "127.0.0.1:20003"
    assert config.metrics_port("inference-2") == 20_116
    assert config.service_folder("features-2") != config.service_folder("features")
    ports = config.all_ports()
    assert {"postgres", "valkey", "seaweedfs", "features_2", "features_2 metrics"} <= set(ports)
    assert len(set(ports.values())) == len(ports)
    assert load(tmp_path, environment={"HEDGEROW_PROFILE": "distributed"}).profile == "distributed"
    assert load(tmp_path, "[suite]\nprofile = 'distributed'").profile == "distributed"
    assert load(tmp_path, environment={"HEDGEROW_PORT_FEATURES_2": "2002"}).ports["features_2"] == 2002
    assert "both" in fault(tmp_path, profile="distributed", ports={"ingestion": 7489})
    assert load(tmp_path, ports={"ingestion": 7489}).ports["ingestion"] == 7489
    only = load(tmp_path, profile="distributed", only=["inference"])
    assert only.instances == ["secrets", "inference", "inference-2"]


def test_the_embedded_profile_has_neither(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert config.instances == list(SERVICES)
    assert config.address("features") == "127.0.0.1:7444"
    assert not config.backing


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[ports]\nfeature = 1", "'feature' is unknown; known are openbao"),
        ("[ports]\nfeatures = 'x'", "ports.features: expected a port"),
        ("[ports]\nfeatures = 70000", "ports.features: expected a port"),
        ("[ports]\nfeatures = 7443", "port 7443 is meant for both ingestion and features"),
        ("[ports]\nfeatures = 7543", "port 7543 is meant for both"),
        ("[suite]\nprofile = 'huge'", "profile 'huge' is unknown; choose one of embedded, distributed"),
        ("[suite]\nfolder = 'x'", "'folder' is unknown"),
        ("[other]", "'other' is unknown"),
        ("[ports", "is not TOML"),
        ("[vault]\naddress = 'https://v:8200'", "lacks ca_file, secrets_cert_file"),
    ],
)
def test_faults_in_the_file(tmp_path: Path, toml: str, words: str) -> None:
    assert words in fault(tmp_path, toml)


def test_faults_in_variables_and_flags(tmp_path: Path) -> None:
    assert "HEDGEROW_PORT_FEATURES" in fault(tmp_path, environment={"HEDGEROW_PORT_FEATURES": "none"})
    assert "'feature' is unknown" in fault(tmp_path, ports={"feature": 1})
    assert "'feature' is unknown" in fault(tmp_path, only=["feature"])
    assert "not a port" in fault(tmp_path, port_base=65_500)


def test_a_secret_server_of_ones_own(tmp_path: Path) -> None:
    names = ("ca_file", "secrets_cert_file", "secrets_key_file", "supervisor_cert_file", "supervisor_key_file")
    files = {name: tmp_path / name for name in names}
    toml = "[vault]\naddress = 'https://v:8200'\n" + "".join(f"{name} = '{path}'\n" for name, path in files.items())
    assert "there is no file" in fault(tmp_path, toml)
    for path in files.values():
        path.touch()
    config = load(tmp_path, toml)
    assert config.vault is not None
    assert config.vault.address == "https://v:8200"
    assert "openbao" not in config.all_ports()
    assert "expected https://" in fault(tmp_path, toml.replace("https:", "http:"))
