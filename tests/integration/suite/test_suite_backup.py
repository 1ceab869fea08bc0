"""A suite that was stopped, archived, lost and restored as docs/guide/operations.md says, elsewhere: nothing is missing."""

from __future__ import annotations

import datetime as dt
import re
import shutil
import subprocess
from pathlib import Path

import pyarrow as pa

from hedgerow.features.v1 import features_pb2
from hedgerow.ingestion.v1 import ingestion_pb2 as pb
from hedgerow.sdk.features import matrix
from tests.support.suite import ROOT, RunningSuite, running_suite

SERVICES = ["governance", "ingestion", "features"]
PURPOSE = "credit_risk"
APRIL, MAY, JUNE = (dt.datetime(2026, month, 1, tzinfo=dt.UTC) for month in (4, 5, 6))
WHO = ["A-1", "A-2", "A-3"]
CONTRACT = pb.Contract(
    columns=[
        pb.Column(name="client", type=pb.Column.TYPE_STRING, tags=["pii"], pseudonymize=True),
        pb.Column(name="month", type=pb.Column.TYPE_TIMESTAMP),
        pb.Column(name="paid", type=pb.Column.TYPE_INT64),
    ],
    key_columns=["client"],
    event_time_column="month",
    subject_column="client",
    pseudonym_domain="backup",
    purposes=[PURPOSE],
    legal_basis="contract",
    retention_days=365,
    description="Payments, made up.",
)
VIEW = features_pb2.FeatureView(
    dataset="datasets/payments",
    entity_column="client",
    features=[features_pb2.Feature(name="paid", expression="sum(paid)", description="Paid in all")],
)


def rows(month: dt.datetime, paid: list[int]) -> pa.Table:
    months = pa.array([month] * len(WHO), pa.timestamp("us", tz="UTC"))
    return pa.table({"client": WHO, "month": months, "paid": pa.array(paid, pa.int64())})


async def materialize_and_read(suite: RunningSuite) -> list[float]:
    async with await suite.connect("ana", PURPOSE) as ana:
        asked = await ana.features.create_materialization("featureServices/payments", JUNE)
        await ana.features.wait_for_materialization(asked.name, timeout=60)
    return await read(suite)


async def read(suite: RunningSuite) -> list[float]:
    async with await suite.connect("creditapp", PURPOSE) as creditapp:
        block = await creditapp.features.get_online_features("featureServices/payments", WHO)
    return [float(value) for value in matrix(block)[:, 0]]


async def verified_events(suite: RunningSuite) -> int:
    async with await suite.connect("pia") as pia:
        report = await pia.governance.verify_audit_trail(seal_first=True)
    assert report.verified, list(report.faults)
    assert not report.anchors
    return int(report.event_count)


def archive_commands() -> list[list[str]]:
    """Return the two `tar` commands of the guide, to be run with a folder each."""
    guide = (ROOT / "docs" / "guide" / "operations.md").read_text()
    return [line.split() for line in re.findall(r"^tar -C \$HEDGEROW_DIR (-cpf .+)$", guide, re.MULTILINE)]


def run_tar(folder: Path, archives: Path, words: list[str]) -> None:
    subprocess.run(["tar", "-C", str(folder), words[0], str(archives / words[1]), *words[2:]], check=True)


async def test_a_suite_comes_back_from_its_archives(tmp_path: Path) -> None:
    folder = tmp_path / "suite"
    with running_suite(folder, SERVICES) as suite:
        async with await suite.connect("ana", PURPOSE) as ana:
            await ana.ingestion.create_dataset("payments", CONTRACT)
            await ana.ingestion.append("datasets/payments", rows(APRIL, [1, 20, 300]))
            await ana.features.create_feature_view("payments", VIEW)
            service = features_pb2.FeatureService(feature_views=["featureViews/payments"])
            await ana.features.create_feature_service("payments", service)
        assert await materialize_and_read(suite) == [1.0, 20.0, 300.0]
        before = await verified_events(suite)

    data, keys = archive_commands()
    for words in (data, keys):
        run_tar(folder, tmp_path, words)
    shutil.rmtree(folder)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    for words in (data, keys):
        run_tar(elsewhere, tmp_path, ["-xpf", words[1]])
    assert not (elsewhere / "run").exists()

    with running_suite(elsewhere, SERVICES) as restored:
        assert await read(restored) == [1.0, 20.0, 300.0]
        assert await verified_events(restored) > before
        async with await restored.connect("ana", PURPOSE) as ana:
            # Other keys would make other pseudonyms, and a lake that cannot be read.
            await ana.ingestion.append("datasets/payments", rows(MAY, [1000, 0, 0]))
            assert (await ana.ingestion.get_dataset("datasets/payments")).row_count == 2 * len(WHO)
        assert await materialize_and_read(restored) == [1001.0, 20.0, 300.0]
    assert not folder.exists()
