"""The four tools: how each is called, and how its answer reads. They run in an environment of their own."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit.finding import AuditError, Finding, Verdict

SECONDS = 900.0
# An old release with published advisories: a service that does not name them was not asked, or knows nothing.
CONTROL = "urllib3==1.24.1"
PINS = ("constraints.txt", "audit/requirements.txt")
SBOM = "sbom.cdx.json"
# The project itself, and the installer that its environment came with.
UNPINNED = {"hedgerow", "pip", "setuptools"}


@dataclass(frozen=True)
class Place:
    """Where things are.

    Attributes:
        root: of the repository.
        programs: the folder with the tools.
        python: the interpreter whose packages are listed.
        out: where reports go.
    """

    root: Path
    programs: Path
    python: Path
    out: Path

    def run(self, *command: str, accepted: Sequence[int] = (0,)) -> str:
        """Run a tool in the root and return what it printed.

        Raises:
            AuditError: it is not there, takes too long, or ends in a way it should not.
        """
        try:
            done = subprocess.run(  # noqa: S603 - tools and files of this repository, without a shell
                [str(self.programs / command[0]), *command[1:]],
                cwd=self.root, capture_output=True, text=True, timeout=SECONDS, check=False,
            )  # fmt: skip
        except FileNotFoundError:
            raise AuditError(f"{command[0]} is not installed in {self.programs}; run `make audit`") from None
        except subprocess.TimeoutExpired:
            raise AuditError(f"{command[0]} did not end within {SECONDS:g} s") from None
        if done.returncode not in accepted:
            last = (done.stderr.strip() or done.stdout.strip() or "nothing was said").splitlines()[-1]
            raise AuditError(f"{command[0]} ended with {done.returncode}: {last[:200]}")
        return done.stdout

    def files(self) -> list[str]:
        """Return the files of the repository, new ones too, without what git ignores.

        Raises:
            AuditError: this is no git checkout.
        """
        done = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607 - git as installed
            cwd=self.root, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise AuditError("git does not list the files; run this in a checkout")
        return sorted(name for name in done.stdout.split("\0") if name and (self.root / name).is_file())

    def line(self, file: str, number: int) -> str:
        """Return a line of a file, stripped; empty where there is none."""
        lines = (self.root / file).read_text(errors="replace").splitlines()
        return lines[number - 1].strip() if 0 < number <= len(lines) else ""


# ---- known vulnerabilities


def pip_audit(place: Place) -> Verdict:
    """Ask the advisory service about every pinned version."""
    control = place.out / "control.txt"
    control.write_text(f"{CONTROL}\n")
    if not _vulnerable(_ask(place, str(control)))[0]:
        raise AuditError(
            f"the advisory service was not reached: nothing came back about {CONTROL}, which has published advisories. "
            "Run it where pypi.org answers"
        )
    found, skipped, count = [], [], 0
    for file in PINS:
        answer = _ask(place, file)
        vulnerable, unknown = _vulnerable(answer)
        found += vulnerable
        skipped += unknown
        count += len(answer["dependencies"])
    fault = f"nothing is known about {len(skipped)} of {count} packages: {', '.join(skipped[:5])}" if skipped else ""
    return Verdict("pip-audit", f"{count} pinned packages", tuple(found), fault)


def _ask(place: Place, file: str) -> dict[str, Any]:
    # 1: there are vulnerabilities.
    command = ("pip-audit", "--disable-pip", "--no-deps", "--progress-spinner", "off", "--format", "json")
    answer: dict[str, Any] = json.loads(place.run(*command, "--requirement", file, accepted=(0, 1)) or "{}")
    if "dependencies" not in answer:
        raise AuditError("pip-audit could not ask the advisory service. Run it where pypi.org answers")
    return answer


def _vulnerable(answer: dict[str, Any]) -> tuple[list[Finding], list[str]]:
    """Return the findings, and the packages that the service knows nothing about: pip-audit calls those a success."""
    found = [
        Finding(
            "pip-audit",
            advisory["id"],
            package["name"],
            text=f"mended in {' or '.join(advisory['fix_versions']) or 'no version yet'}",
        )
        for package in answer["dependencies"]
        for advisory in package.get("vulns", ())
    ]
    return found, [package["name"] for package in answer["dependencies"] if "skip_reason" in package]


# ---- insecure code


def bandit(place: Place) -> Verdict:
    """Look for insecure constructs in all code but the tests; marks in the code do not silence it."""
    files = [name for name in place.files() if name.endswith(".py") and not name.startswith("tests/")]
    answer = json.loads(place.run("bandit", "--quiet", "--exit-zero", "--ignore-nosec", "--format", "json", *files))
    if answer["errors"]:
        raise AuditError(f"bandit could not read {answer['errors'][0]['filename']}")
    found = [
        Finding("bandit", one["test_id"], _name(one["filename"]), one["line_number"], one["issue_text"])
        for one in answer["results"]
    ]
    return Verdict("bandit", f"{len(files)} files", tuple(_with_source(place, found)))


# ---- secrets


def detect_secrets(place: Place) -> Verdict:
    """Look for secrets in every file; none of them is sent anywhere to be tried."""
    files = place.files()
    answer = json.loads(place.run("detect-secrets", "scan", "--no-verify", *files))
    found = [
        Finding("detect-secrets", one["type"], _name(file), one["line_number"])
        for file, ones in answer["results"].items()
        for one in ones
    ]
    return Verdict("detect-secrets", f"{len(files)} files", tuple(_with_source(place, found)))


def _with_source(place: Place, findings: Sequence[Finding]) -> list[Finding]:
    return [Finding(one.tool, one.rule, one.where, one.line, place.line(one.where, one.line)) for one in findings]


def _name(file: str) -> str:
    return file.removeprefix("./")


# ---- bill of materials


def cyclonedx(place: Place) -> Verdict:
    """Write a CycloneDX list of what is installed, valid by its schema, and hold it to the pinned versions."""
    file = place.out / SBOM
    place.run(
        "cyclonedx-py", "environment", "--pyproject", "pyproject.toml", "--output-reproducible", "--validate",
        "--spec-version", "1.6", "--output-format", "JSON", "--output-file", str(file), str(place.python),
    )  # fmt: skip
    pinned = dict(re.findall(r"^([^=\s]+)==(\S+)$", (place.root / "constraints.txt").read_text(), re.MULTILINE))
    pinned = {_normal(name): version for name, version in pinned.items()}
    parts = json.loads(file.read_text())["components"]
    found = [
        Finding("cyclonedx", "not-pinned", part["name"], text=f"{part['version']} is installed, pinned is {wanted}")
        for part in parts
        # A local version names the build, such as 2.13.0+cpu.
        if (wanted := pinned.get(_normal(part["name"]), "none")) != part["version"].split("+")[0]
        and _normal(part["name"]) not in UNPINNED
    ]
    return Verdict("cyclonedx", f"{len(parts)} components", tuple(found))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


TOOLS = {"pip-audit": pip_audit, "bandit": bandit, "detect-secrets": detect_secrets, "cyclonedx": cyclonedx}
