"""Step 1: two datasets under contracts, filled with Arrow record batches; broken rows go to quarantine."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from examples.credit.records import PLANTED_CLIENTS, PLANTED_STATEMENTS, Planted
from examples.credit.report.model import ColumnFacts, DatasetFacts, QuarantinedRow
from examples.credit.run import DemoError, Run
from hedgerow.ingestion.v1 import ingestion_pb2 as pb
from hedgerow.sdk import definitions


@dataclass(frozen=True)
class Ingested:
    """What the ingestion service holds after the step."""

    datasets: Sequence[DatasetFacts]
    quarantine: Sequence[QuarantinedRow]
    rows: int
    quarantined: int


async def ingest(run: Run) -> Ingested:
    """Creates the datasets and appends the records, the planted rows among them."""
    ana = run.caller("ana")
    for definition in run.of_kind("Dataset"):
        dataset = await definitions.apply(ana, definition)
        run.say(f"{dataset.name}: {len(dataset.contract.columns)} columns under contract")
    records = run.records
    datasets, quarantine = [], []
    for base, table, broken, planted in (
        ("clients", records.clients, records.broken_clients, PLANTED_CLIENTS),
        ("statements", records.statements, records.broken_statements, PLANTED_STATEMENTS),
    ):
        name = run.name("datasets", base)
        answer = await ana.ingestion.append(name, pa.concat_tables([table, broken]))
        run.say(f"{name}: {answer.row_count:,} rows encrypted, {answer.quarantined_row_count} in quarantine")
        rows = [row async for row in ana.ingestion.list_quarantined_records(name)]
        _check_reasons(name, rows, planted, first=table.num_rows)
        quarantine += [QuarantinedRow(name, row.row_index, row.reason) for row in sorted(rows, key=_index)]
        datasets.append(_facts(await ana.ingestion.get_dataset(name)))
    return Ingested(
        datasets, quarantine, sum(each.rows for each in datasets), sum(each.quarantined for each in datasets)
    )


def _check_reasons(name: str, rows: Sequence[pb.QuarantinedRecord], planted: Sequence[Planted], first: int) -> None:
    """Each planted row must be in quarantine, with its broken column in the reason."""
    reasons = {row.row_index: row.reason for row in rows}
    for index, fault in enumerate(planted, start=first):
        if fault.column not in reasons.get(index, ""):
            raise DemoError(
                f"row {index} of {name} breaks its contract in {fault.column}, but quarantine does not say so"
            )


def _index(row: pb.QuarantinedRecord) -> int:
    return row.row_index


def _facts(dataset: pb.Dataset) -> DatasetFacts:
    contract = dataset.contract
    columns = [
        ColumnFacts(
            column.name,
            pb.Column.Type.Name(column.type).removeprefix("TYPE_").lower(),
            list(column.tags),
            "keyed hash, encrypted" if column.pseudonymize else "encrypted",
            list(column.purposes or contract.purposes),
        )
        for column in contract.columns
    ]
    return DatasetFacts(
        dataset.name.partition("/")[2],
        contract.description,
        dataset.row_count,
        dataset.quarantined_row_count,
        columns,
        list(contract.purposes),
        contract.legal_basis,
        contract.retention_days,
    )
