"""Schema changes of the training service's database, in order."""

from pathlib import Path

MIGRATIONS = Path(__file__).parent
