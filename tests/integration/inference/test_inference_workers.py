"""``HEDGEROW_WORKERS=2``: two processes on one port are one service, to its callers and to who scrapes it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from hedgerow.channel import RotatingChannel
from hedgerow.client import ServiceClient
from hedgerow.errors import UnavailableError
from hedgerow.features.v1 import features_pb2
from hedgerow.inference.v1 import inference_pb2 as pb
from hedgerow.secrets.v1 import secrets_pb2
from libs.rpc import Call
from tests.integration.inference.stand_ins import BLOCK, Features, Keys, Models
from tests.support.authority import DOMAIN, PEM, Authority, folder
from tests.support.service_process import Process, free_port, until_answered
from tests.support.serving import serving
from tests.unit.inference.small_model import FEATURES

ROWS = np.random.default_rng(31).normal(size=(4, FEATURES))
PATIENCE_SECONDS = 90.0
CONNECTIONS = 64
PREDICT = pb.PredictEntitiesRequest(deployment="deployments/credit", entity_keys=["c1"])
METHOD = "/hedgerow.inference.v1.InferenceService/PredictEntities"


class HeldFeatures(Features):
    """Answers only while it may."""

    def __init__(self) -> None:
        super().__init__(ROWS)
        self.may = asyncio.Event()
        self.may.set()
        self.waiting = 0

    async def get_online_features(self, request: features_pb2.GetOnlineFeaturesRequest, call: Call) -> BLOCK:
        """See ``Features``."""
        self.waiting += 1
        await self.may.wait()
        self.waiting -= 1
        return await super().get_online_features(request, call)


class IssuingKeys(Keys):
    """Renews certificates too, and counts how often it is asked."""

    def __init__(self, authority: Authority) -> None:
        super().__init__()
        self._authority = authority
        self.renewals: list[int] = []

    async def renew_certificate(
        self, request: secrets_pb2.RenewCertificateRequest, call: Call
    ) -> secrets_pb2.Certificate:
        """Sign the key of the request for the names that the service has."""
        names = self._authority.service("inference").certificate
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(names.subject)
            .issuer_name(names.issuer)
            .public_key(x509.load_pem_x509_csr(request.csr_pem.encode()).public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=1))
            .not_valid_after(now + dt.timedelta(hours=1))
        )
        for extension in names.extensions:
            builder = builder.add_extension(extension.value, extension.critical)
        leaf = builder.sign(self._authority._key, hashes.SHA256())
        self.renewals.append(leaf.serial_number)
        return secrets_pb2.Certificate(
            chain_pem=leaf.public_bytes(PEM).decode(), roots_pem=self._authority.roots_pem.decode()
        )


class Service:
    """Two workers, what they call, and who calls them."""

    def __init__(self, tmp: Path, stack: AsyncExitStack, authority: Authority, transport: str) -> None:
        self.tmp, self.stack, self.authority, self.transport = tmp, stack, authority, transport
        self.features, self.keys = HeldFeatures(), IssuingKeys(authority)
        self.metrics_port = free_port()
        self.predicted = 0

    async def start(self) -> None:
        """Start everything; the certificate of the service has passed half of its life."""
        targets = {}
        stand_ins = {"features": self.features, "secrets": self.keys, "training": Models()}
        for name, servicer in stand_ins.items():
            served = await self.stack.enter_async_context(
                serving(self.tmp / name, [servicer.service()], name=name, authority=self.authority)
            )
            targets[name] = served.target
        self.process = Process(
            self.tmp, self.authority, targets | {"governance": f"127.0.0.1:{free_port()}"}, targets["secrets"],
            identity=self.authority.service("inference", age=dt.timedelta(hours=2)),
            HEDGEROW_WORKERS="2",
            HEDGEROW_TRANSPORT=self.transport,
            HEDGEROW_METRICS_LISTEN=f"127.0.0.1:{self.metrics_port}",
        )  # fmt: skip
        await self.process.start()

    def workers(self) -> list[psutil.Process]:
        """Return the processes that serve or are about to."""
        assert self.process.process is not None
        return psutil.Process(self.process.process.pid).children()

    def client(self, user: str) -> ServiceClient:
        """Return a client with a connection of its own."""
        kept = folder(self.tmp / f"user-{user}", self.authority.user(user))
        channel = RotatingChannel(f"127.0.0.1:{self.process.port}", f"inference.{DOMAIN}", kept)
        self.stack.push_async_callback(channel.close)
        return ServiceClient(channel, pb.DESCRIPTOR.services_by_name["InferenceService"])

    async def predict(self, connections: int) -> None:
        """Predict once over each of some new connections."""
        clients = [self.client("creditapp") for _ in range(connections)]
        for client in clients:
            await client.call("PredictEntities", PREDICT, timeout=30.0, purpose="credit_risk")
            self.predicted += 1

    async def scrape(self) -> dict[str, Metric]:
        """Return what Prometheus would see."""
        text = await asyncio.to_thread(self._get)
        return {family.name: family for family in text_string_to_metric_families(text)}

    def _get(self) -> str:
        operator = folder(self.tmp / "operator", self.authority.user("operator"))
        context = ssl.create_default_context(cadata=self.authority.roots_pem.decode())
        context.load_cert_chain(operator.folder / "identity.pem")
        with (
            socket.create_connection(("127.0.0.1", self.metrics_port), timeout=30) as raw,
            context.wrap_socket(raw, server_hostname=f"inference.{DOMAIN}") as wrapped,
        ):
            wrapped.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            return b"".join(iter(lambda: wrapped.recv(65536), b"")).partition(b"\r\n\r\n")[2].decode()

    def serials(self, connections: int) -> set[int]:
        """Return the certificates that new connections are shown."""
        ana = folder(self.tmp / "ana", self.authority.user("ana"))
        context = ssl.create_default_context(cadata=self.authority.roots_pem.decode())
        context.load_cert_chain(ana.folder / "identity.pem")
        context.set_alpn_protocols(["h2"])
        seen = set()
        for _ in range(connections):
            with (
                socket.create_connection(("127.0.0.1", self.process.port), timeout=30) as raw,
                context.wrap_socket(raw, server_hostname=f"inference.{DOMAIN}") as wrapped,
            ):
                shown = wrapped.getpeercert(binary_form=True)
                assert shown is not None
                seen.add(x509.load_der_x509_certificate(shown).serial_number)
        return seen


@pytest.fixture(params=["aio", "lane"])
async def service(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Service]:
    """A service of two workers, on either transport."""
    async with AsyncExitStack() as stack:
        running = Service(tmp_path, stack, Authority(), request.param)
        await running.start()
        try:
            yield running
        finally:
            await running.process.end(signal.SIGKILL)


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():
            await asyncio.sleep(0.05)


def values(family: Metric, label: str) -> dict[str, float]:
    """Return the values of a metric by one of its labels."""
    return {sample.labels[label]: sample.value for sample in family.samples}


def handled(scrape: dict[str, Metric]) -> float:
    """Return how many predictions were answered, over all workers."""
    return sum(
        sample.value
        for sample in scrape["hedgerow_rpc_handled"].samples
        if sample.labels["method"] == METHOD and sample.labels["code"] == "OK"
    )


async def both_serve(service: Service) -> dict[str, Metric]:
    """Return the first scrape to which two workers contribute."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            scrape = await service.scrape()
            capacity = scrape.get("hedgerow_rpc_capacity")
            if capacity is not None and len(values(capacity, "worker")) == 2:
                return scrape
            await asyncio.sleep(0.1)


def predicted(scrape: dict[str, Metric]) -> float:
    """Return how many predictions the models made, over all workers."""
    family = scrape.get("hedgerow_model_predictions")
    return sum(sample.value for sample in family.samples) if family else 0.0


async def all_counted(service: Service) -> dict[str, Metric]:
    """Return the first scrape that counts every prediction: on a busy machine a worker may answer only for the next."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while True:
        scrape = await service.scrape()
        is_whole = handled(scrape) == predicted(scrape) == service.predicted
        if is_whole or asyncio.get_running_loop().time() > deadline:
            assert handled(scrape) == service.predicted
            assert predicted(scrape) == service.predicted
            return scrape
        await asyncio.sleep(0.1)


async def test_two_workers_are_one_service(service: Service) -> None:
    """Field case MON-01, on real workers."""
    create = pb.CreateDeploymentRequest(deployment_id="credit", model_version="models/credit/versions/2")
    await until_answered(service.client("ben"), "CreateDeployment", create)
    await both_serve(service)

    # Both answer, and what they count adds up to what was asked.
    await service.predict(CONNECTIONS)
    scrape = await all_counted(service)
    answered = values(scrape["hedgerow_model_last_answer_time_seconds"], "worker")
    assert answered.keys() == {"0", "1"}
    assert all(answered.values())
    assert values(scrape["process_resident_memory_bytes"], "worker").keys() == {"0", "1", "parent"}
    assert [scrape[f"hedgerow_workers_{which}"].samples[0].value for which in ("configured", "serving")] == [2, 2]

    # What only the parent does is seen too: here nobody tells it of policies.
    for name in ("hedgerow_watch_age_seconds", "hedgerow_certificate_expire_time_seconds"):
        assert values(scrape[name], "worker").keys() == {"0", "1", "parent"}
    ages = {(s.labels["worker"], s.labels["watch"]): s.value for s in scrape["hedgerow_watch_age_seconds"].samples}
    assert ages["parent", "WatchPolicyBundle"] > 0
    queue = {s.labels["le"]: s.value for s in scrape["hedgerow_model_queue_seconds"].samples if "le" in s.labels}
    assert queue["+Inf"] == service.predicted

    # One hangs: it counts as it did, and what it read of itself as it last answered.
    hung = service.workers()[1]
    hung.suspend()
    scrape = await service.scrape()
    assert handled(scrape) == service.predicted
    assert predicted(scrape) == service.predicted
    hung.resume()

    # The certificate was renewed by one of the three, and all new connections are shown the new one.
    await until(lambda: len(service.keys.renewals) > 0)
    await until(lambda: service.serials(1) == {service.keys.renewals[0]})
    assert service.serials(CONNECTIONS) == {service.keys.renewals[0]}

    # One dies: the other goes on, nothing that was counted is lost, and the first comes back.
    victim = service.workers()[0]
    victim.kill()
    await until(lambda: not psutil.pid_exists(victim.pid))
    await service.predict(4)
    assert handled(await service.scrape()) == service.predicted
    await until(lambda: len(service.workers()) == 2)
    for _ in range(2):
        await both_serve(service)
        await all_counted(service)
        await service.predict(CONNECTIONS)
    assert len(service.keys.renewals) == 1

    # Told to stop, both answer what they have taken on.
    service.features.may.clear()
    held = [asyncio.create_task(service.predict(1)) for _ in range(8)]
    await until(lambda: service.features.waiting == len(held))
    assert service.process.process is not None
    service.process.process.send_signal(signal.SIGTERM)
    refused = service.client("ana")
    async with asyncio.timeout(PATIENCE_SECONDS):
        with contextlib.suppress(UnavailableError):
            while True:
                await refused.call("GetDeployment", pb.GetDeploymentRequest(name="deployments/credit"), timeout=5.0)
    service.features.may.set()
    await asyncio.gather(*held)
    assert await service.process.process.wait() == 0


@pytest.mark.parametrize("service", ["lane"], indirect=True)
async def test_workers_end_with_their_parent(service: Service) -> None:
    await until_answered(service.client("ana"), "ListDeployments", pb.ListDeploymentsRequest())
    await until(lambda: len(service.workers()) == 2)
    workers = service.workers()
    await service.process.end(signal.SIGKILL)
    await until(lambda: not any(worker.is_running() for worker in workers))


async def test_a_worker_that_cannot_start_stops_the_service(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        service = Service(tmp_path, stack, Authority(), "aio")
        database = tmp_path / "var" / "data" / "inference.db"
        database.parent.mkdir(parents=True)
        database.write_bytes(os.urandom(8192))
        await service.start()
        assert service.process.process is not None
        assert await service.process.process.wait() == 3
    log = (service.process.data_dir / "process.log").read_text()
    assert log.count('"reason": "DATA_CORRUPT"') == 1
