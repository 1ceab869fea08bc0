"""Schema changes of the features service's database, in order."""

from pathlib import Path

MIGRATIONS = Path(__file__).parent
