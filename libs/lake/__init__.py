"""The encrypted lake: a Delta log over Parquet files that Parquet Modular Encryption seals with AES-256-GCM.

Rules that hold for every table:

1. One writer makes every file and every commit; nothing else may append, because no Delta library knows the encryption.
2. Every column of every file is sealed under a key that its table layout names, and so is the footer.
3. The Delta log holds no value of the data: paths, sizes, row counts, column names and request ids, nothing else.
4. A reader opens only what a snapshot lists, and refuses a file that is not sealed or not the file its name says.
5. A file that held an erased subject is destroyed, and every version that names it answers with the receipt.
"""

from libs.lake.erasure import ErasureCount
from libs.lake.keyring import Keyring, Unwrap, Wrap
from libs.lake.layout import ARROW_TYPES, TableLayout, arrow_schema
from libs.lake.pseudonym import pseudonym, pseudonym_column
from libs.lake.reader import SnapshotReader
from libs.lake.search import rows_holding
from libs.lake.storage import LOCAL_STORAGE, LakeStorage
from libs.lake.table import Appended, LakeTable, SearchCount, TableSnapshot

__all__ = [
    "ARROW_TYPES",
    "LOCAL_STORAGE",
    "Appended",
    "ErasureCount",
    "Keyring",
    "LakeStorage",
    "LakeTable",
    "SearchCount",
    "SnapshotReader",
    "TableLayout",
    "TableSnapshot",
    "Unwrap",
    "Wrap",
    "arrow_schema",
    "pseudonym",
    "pseudonym_column",
    "rows_holding",
]
