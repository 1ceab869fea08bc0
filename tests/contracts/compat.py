"""An earlier state of the project, made to run beside today's: its contract, its stubs, its SDK."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def git(*command: str, folder: Path = ROOT) -> str:
    """Return what git prints."""
    return subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def last_tag(folder: Path = ROOT) -> str | None:
    """Return the newest tag that the current commit follows, or None when there is none yet."""
    found = subprocess.run(
        ["git", "describe", "--tags", "--abbrev=0"], cwd=folder, check=False, capture_output=True, text=True
    )
    return found.stdout.strip() if found.returncode == 0 else None


def tagged_clone(folder: Path) -> Path:
    """Clone the project, and commit the contract and the SDK as they are now, with the tag `v0.0.1`."""
    git("clone", "--quiet", "--depth=1", f"file://{ROOT}", str(folder))
    for name in ("protos", "hedgerow"):
        shutil.rmtree(folder / name)
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*_pb2.py*", "__pycache__"))
    git("add", "--all", folder=folder)
    who = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    git(*who, "commit", "--quiet", "--allow-empty", "--message=Stands for a tagged commit", folder=folder)
    git("tag", "v0.0.1", folder=folder)
    return folder


def check_out(repository: Path, tag: str, folder: Path) -> Path:
    """Put the contract and the SDK of a tag, with stubs made from that contract, into a folder and return it."""
    folder.mkdir(parents=True)
    archive = folder / "tag.tar"
    git("archive", "--output", str(archive), tag, "protos", "hedgerow", folder=repository)
    with tarfile.open(archive) as content:
        content.extractall(folder, filter="data")
    archive.unlink()
    protos = sorted(str(path.relative_to(folder / "protos")) for path in (folder / "protos").rglob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", "-Iprotos", "--python_out=.", *protos]
    subprocess.run(command, cwd=folder, check=True)
    return folder


def breaking(against: Path, protos: Path = ROOT / "protos") -> list[str]:
    """Return what of a contract breaks clients of an earlier one, as `buf breaking` finds it."""
    buf = Path(sys.executable).parent / "buf"
    found = subprocess.run(
        [str(buf), "breaking", str(protos), "--against", str(against)], check=False, capture_output=True, text=True
    )
    assert found.returncode in (0, 100), found.stderr
    return found.stdout.splitlines()
