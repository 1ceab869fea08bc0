"""A real Prometheus on loopback, as `deploy/compose/prometheus.yml` sets it up."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
SCRAPE_CONFIG = ROOT / "deploy" / "compose" / "prometheus.yml"
UNPACKED = Path(sys.prefix) / "prometheus" / "usr" / "bin"
START_SECONDS = 60.0


def program(name: str) -> str:
    """Return the path of ``prometheus`` or ``promtool``: the one that `make test` unpacks, else an installed one."""
    found = shutil.which(name, path=str(UNPACKED)) or shutil.which(name)
    assert found is not None, f"{name} is missing: run `make {UNPACKED.relative_to(ROOT)}/promtool`"
    return found


class Prometheus:
    """A running server."""

    def __init__(self, port: int) -> None:
        self._address = f"http://127.0.0.1:{port}"

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of the API."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self._address}{path}?{query}", timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return (labels, value) of each series that an expression gives now."""
        found = self.get("/api/v1/query", query=expression)["result"]
        return [(series["metric"], float(series["value"][1])) for series in found]

    def wait_for(self, expression: str, good: Callable[[list[tuple[dict[str, str], float]]], bool]) -> None:
        """Wait until an expression gives what it should.

        Raises:
            AssertionError: it does not come to that.
        """
        deadline = time.monotonic() + START_SECONDS
        while not good(found := self.query(expression)):
            assert time.monotonic() < deadline, (expression, found, self.get("/api/v1/targets")["activeTargets"])
            time.sleep(0.2)


@contextlib.contextmanager
def prometheus(folder: Path, identity: Path | None, targets: Mapping[str, int]) -> Iterator[Prometheus]:
    """Run a server that scrapes services as the compose file's does, but on loopback and every second.

    Args:
        folder: for its data.
        identity: folder of its identity; without one it shows no certificate.
        targets: the metrics ports by service.
    """
    config = yaml.safe_load(SCRAPE_CONFIG.read_text())
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    for service, port in targets.items():
        jobs[service]["static_configs"] = [{"targets": [f"127.0.0.1:{port}"], "labels": {"service": service}}]
        tls = jobs[service]["tls_config"]
        for key in ("ca_file", "cert_file", "key_file"):
            if identity is not None:
                tls[key] = str(identity / Path(tls[key]).name)
            else:
                del tls[key]
        if identity is None:
            tls["insecure_skip_verify"] = True
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(ROOT / "deploy" / "prometheus" / "rules" / "*.yml")]
    config["scrape_configs"] = [jobs[service] for service in targets]
    del config["alerting"]
    folder.mkdir(parents=True)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = _free_port()
    arguments = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program("prometheus"), *arguments, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log
        )
        try:
            _wait_ready(process, port, folder / "log")
            yield Prometheus(port)
        finally:
            process.terminate()
            try:
                process.wait(START_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=5).close()
            return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
