"""Programs that come in wheels: found without importing what is around them, which does more than is wanted."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from suite.unit import UnitError


def wheel_folder(package: str) -> Path:
    """Return the folder of an installed package.

    Raises:
        UnitError: it is not installed.
    """
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        name = package.replace("_", "-")
        raise UnitError(f"{name} is not installed; install the extra `distributed` or run that server elsewhere")
    return Path(found.submodule_search_locations[0])
