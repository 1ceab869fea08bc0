"""Reads record files as tables in the form of a dataset's contract."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

from hedgerow.errors import InvalidArgumentError
from hedgerow.ingestion.v1 import ingestion_pb2 as pb

_TYPES = {
    pb.Column.TYPE_STRING: pa.string(),
    pb.Column.TYPE_INT64: pa.int64(),
    pb.Column.TYPE_FLOAT64: pa.float64(),
    pb.Column.TYPE_BOOL: pa.bool_(),
    pb.Column.TYPE_TIMESTAMP: pa.timestamp("us", tz="UTC"),
}

_CSV_COLUMN = re.compile(r"In CSV column #(\d+): (?:Row #(\d+): )?")


def schema(contract: pb.Contract) -> pa.Schema:
    """Returns the Arrow schema of a contract."""
    return pa.schema([(column.name, _TYPES[column.type]) for column in contract.columns])


def read(path: Path, contract: pb.Contract, timezone: str = "") -> pa.Table:
    """Reads a `.csv`, `.csv.gz`, `.parquet` or `.arrow` file as a table with the columns of the contract, in its order.

    Columns that the contract does not name are left out. `timezone` is the zone of times that name none.

    Raises:
        InvalidArgumentError: the form is unknown, a column is missing, or a value does not fit its type.
    """
    wanted = schema(contract)
    try:
        table = _read_any(path, wanted)
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise InvalidArgumentError(f"{path.name}: {' '.join(str(error).split())}") from error
    missing = [name for name in wanted.names if name not in table.column_names]
    if missing:
        raise InvalidArgumentError(
            f"{path.name} has no column {', '.join(missing)}; the contract needs {', '.join(wanted.names)}"
        )
    columns = [_fit(path, table.column(field.name), field, timezone) for field in wanted]
    return pa.table(columns, schema=wanted)


def _read_any(path: Path, wanted: pa.Schema) -> pa.Table:
    if path.suffix == ".parquet":
        return pq.read_table(path)
    if path.suffix == ".arrow":
        with pa.memory_map(str(path)) as source:
            return pa.ipc.open_file(source).read_all()
    if path.suffix != ".csv" and path.suffixes[-2:] != [".csv", ".gz"]:
        raise InvalidArgumentError(f"{path.name}: expected a .csv, .csv.gz, .parquet or .arrow file")
    # Times are read as text first, because whether they name a zone decides how they are taken.
    types = {field.name: pa.string() if pa.types.is_timestamp(field.type) else field.type for field in wanted}
    options = csv.ConvertOptions(column_types=types, strings_can_be_null=True, quoted_strings_can_be_null=False)
    try:
        return csv.read_csv(path, convert_options=options)
    except pa.ArrowInvalid as error:
        raise pa.ArrowInvalid(_where(path, options, str(error))) from error


def _where(path: Path, options: csv.ConvertOptions, text: str) -> str:
    """Returns what is wrong with a CSV, with the column by name and the line, which only a reader of one thread counts."""
    if not _CSV_COLUMN.match(text):
        return text
    try:
        csv.read_csv(path, read_options=csv.ReadOptions(use_threads=False), convert_options=options)
    except pa.ArrowInvalid as error:
        text = str(error)
    match = _CSV_COLUMN.match(text)
    if match is None:
        return text
    name = csv.open_csv(path).schema.names[int(match[1])]
    line = f", line {match[2]}" if match[2] else ""
    return f"column {name}{line}: {text[match.end() :]}"


def _fit(path: Path, column: pa.ChunkedArray, field: pa.Field, timezone: str) -> pa.ChunkedArray:
    try:
        if pa.types.is_timestamp(field.type):
            return _times(column, timezone).cast(field.type)
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        text = " ".join(str(error).split())
        raise InvalidArgumentError(
            f"{path.name}: column {field.name} does not fit {field.type}: {text}", fields={field.name: "does not fit"}
        ) from error


def _times(column: pa.ChunkedArray, timezone: str) -> pa.ChunkedArray:
    """Returns times with a zone: their own, or `timezone` for those that name none."""
    if pa.types.is_string(column.type):
        try:
            return column.cast(pa.timestamp("us", tz="UTC"))
        except pa.ArrowInvalid:
            column = column.cast(pa.timestamp("us"))
    elif pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("us"))
    if not pa.types.is_timestamp(column.type) or column.type.tz:
        return column
    if not timezone:
        raise pa.ArrowInvalid("its times name no zone; say which one they are in, as in --timezone UTC")
    return pc.assume_timezone(column, timezone)
