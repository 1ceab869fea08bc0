"""The workflows of users' CI: valid by GitHub's schema, nothing for zizmor to say, least rights, everything bounded."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.docker.sizes import SERVICES

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
FILES = sorted((GITHUB / "workflows").glob("*.yml"))
PROGRAMS = Path(sys.executable).parent
# A job of a tag may write to the registry; nothing else may write anywhere.
WRITES = {("images", "publish"): {"packages"}}
USES = re.compile(r"^\s*(?:- )?uses: (\S+)(.*)$", re.MULTILINE)


def load(file: Path) -> dict[str, Any]:
    # YAML 1.1 reads the key `on` as true.
    content: dict[str, Any] = yaml.safe_load(file.read_text())
    return content


def jobs() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for file in FILES:
        for name, job in load(file)["jobs"].items():
            yield file.stem, name, job


def run(program: str, *arguments: str) -> str:
    done = subprocess.run(
        [PROGRAMS / program, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_there_is_a_workflow_for_each_gate() -> None:
    assert [file.stem for file in FILES] == ["check", "images", "scans", "test"]


def test_the_schema_accepts_them() -> None:
    run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *map(str, FILES))
    run("check-jsonschema", "--builtin-schema", "vendor.dependabot", str(GITHUB / "dependabot.yml"))


def test_zizmor_has_nothing_to_say() -> None:
    run("zizmor", "--offline", "--quiet", "--no-progress", str(GITHUB))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_action_is_pinned_by_commit_with_its_version_beside(file: Path) -> None:
    for action, comment in USES.findall(file.read_text()):
        if not action.startswith("./"):
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action), action
            assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), f"{action}{comment}"


def test_one_action_has_one_version_everywhere() -> None:
    seen: dict[str, set[str]] = {}
    for file in FILES:
        for action, _ in USES.findall(file.read_text()):
            seen.setdefault(action.split("@")[0], set()).add(action)
    assert {name: pins for name, pins in seen.items() if len(pins) > 1} == {}


def test_nothing_has_more_rights_than_it_needs() -> None:
    for file in FILES:
        assert load(file)["permissions"] == {}, file.name
    for workflow, name, job in jobs():
        rights: dict[str, str] = job["permissions"]
        assert set(rights.values()) <= {"read", "write"}
        assert {area for area, right in rights.items() if right == "write"} == WRITES.get((workflow, name), set())


def test_every_job_has_a_limit_and_every_workflow_a_group() -> None:
    for file in FILES:
        assert "github.ref" in load(file)["concurrency"]["group"]
    for workflow, name, job in jobs():
        # A job that calls a workflow has the limits of that workflow.
        assert "uses" in job or 0 < job["timeout-minutes"] <= 60, (workflow, name)


def test_no_checkout_leaves_its_token_behind() -> None:
    checkouts = [
        step
        for _, _, job in jobs()
        for step in job.get("steps", ())
        if step.get("uses", "").startswith("actions/checkout@")
    ]
    assert checkouts
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_what_make_is_asked_for_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = {name for file in FILES for name in re.findall(r"run: make ([a-z-]+)", file.read_text())}
    assert {"check", "test", "audit", "demo"} <= asked <= targets


def test_the_parts_of_the_tests_are_all_of_them() -> None:
    parts = load(GITHUB / "workflows" / "test.yml")["jobs"]["test"]["strategy"]["matrix"]["include"]
    named = {folder for part in parts for folder in part["folders"].split()}
    there = {f"tests/{file.relative_to(ROOT / 'tests').parts[0]}" for file in (ROOT / "tests").rglob("test_*.py")}
    assert there == named


def test_a_change_of_anything_that_the_images_copy_builds_them() -> None:
    dockerfile = (ROOT / "deploy" / "docker" / "Dockerfile").read_text()
    copies = [
        line.split()[1:-1] for line in dockerfile.splitlines() if line.startswith("COPY ") and "--from=" not in line
    ]
    sources = {source.partition("$")[0].rstrip("/") for copy in copies for source in copy}
    assert {"protos", "suite", "services", "deploy/policies", "pyproject.toml"} <= sources
    # YAML 1.1 reads the key `on` as true.
    content: dict[Any, Any] = yaml.safe_load((GITHUB / "workflows" / "images.yml").read_text())
    paths = content[True]["pull_request"]["paths"]
    assert "deploy/docker/**" in paths
    trees = tuple(path.removesuffix("**") for path in paths if path.endswith("/**"))
    missing = {source for source in sources if source not in paths and not f"{source}/".startswith(trees)}
    assert missing == set()
    # A pattern that matches nothing is a folder that has moved.
    assert all((ROOT / path.removesuffix("/**")).exists() for path in paths)


def test_an_image_is_built_for_every_service_and_pushed_for_a_tag_alone() -> None:
    images = load(GITHUB / "workflows" / "images.yml")["jobs"]
    assert images["build"]["strategy"]["matrix"]["service"] == list(SERVICES)
    published = images["publish"]["strategy"]["matrix"]["include"]
    assert [row["service"] for row in published if row["target"] == "service"] == list(SERVICES)
    for name, job in images.items():
        builds = [step["with"] for step in job.get("steps", ()) if "build-push-action" in step.get("uses", "")]
        assert all(step.get("push", False) is (name == "publish") for step in builds)
        assert all(step["sbom"] and step["provenance"] == "mode=max" for step in builds if step["target"] != "sbom")
    assert images["publish"]["if"] == "${{ startsWith(github.ref, 'refs/tags/v') }}"
    assert set(images["publish"]["needs"]) == {"test", "base"}
