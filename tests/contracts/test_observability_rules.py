"""``deploy/prometheus``: the rules hold by promtool, each alert is tested and has a runbook whose commands exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from hedgerow.cli.__main__ import cli
from libs.config import ServiceConfig
from services.features.config import FeaturesConfig
from services.governance.config import GovernanceConfig
from services.inference.config import InferenceConfig
from services.ingestion.config import IngestionConfig
from services.secrets.config import SecretsConfig
from services.training.config import TrainingConfig
from suite.config import DEFAULT_PORTS, METRICS_OFFSET, SERVICES
from tests.support.prometheus import program

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
RULES = sorted((FOLDER / "rules").glob("*.yml"))
TESTS = sorted((FOLDER / "tests").glob("*.yml"))
RUNBOOKS = ROOT / "docs" / "runbooks"
HEADINGS = ["What it means", "What it does to callers", "Look first", "Then"]
CONFIGS = (
    FeaturesConfig, GovernanceConfig, InferenceConfig, IngestionConfig, SecretsConfig, ServiceConfig, TrainingConfig,
)  # fmt: skip


def rules() -> list[dict[str, Any]]:
    files = [yaml.safe_load(path.read_text()) for path in RULES]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def pages() -> list[Path]:
    return sorted(RUNBOOKS.glob("*.md"))


def promtool(*arguments: str) -> str:
    done = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output


def test_promtool_takes_the_rules() -> None:
    assert promtool("check", "rules", *map(str, RULES)).count("SUCCESS") == len(RULES) == 2


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_only_then(path: Path) -> None:
    assert "SUCCESS" in promtool("test", "rules", str(path))


def test_each_alert_is_seen_firing_in_a_test() -> None:
    fired = set(re.findall(r'alertname="(\w+)"[^}]*\}\'?, value: 1', "".join(path.read_text() for path in TESTS)))
    fired |= set(re.findall(r"alertname: (\w+)\n\s+exp_alerts:\n", "".join(path.read_text() for path in TESTS)))
    assert fired == set(alerts())


def test_an_alert_tells_how_urgent_it_is_and_where_to_read_on() -> None:
    assert len(alerts()) == len([rule for rule in rules() if "alert" in rule])
    for name, alert in alerts().items():
        assert alert["labels"]["severity"] in ("page", "ticket"), name
        assert alert["annotations"]["runbook_url"] == f"docs/runbooks/{name}.md"
        assert "{{" in alert["annotations"]["summary"] or "An erasure ended" in alert["annotations"]["summary"]


def test_each_alert_has_a_runbook_and_no_runbook_is_left_over() -> None:
    assert {path.stem for path in pages()} == {*alerts(), "README"}
    index = (RUNBOOKS / "README.md").read_text()
    for name, alert in alerts().items():
        text = (RUNBOOKS / f"{name}.md").read_text()
        assert text.startswith(f"# {name}\n")
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == HEADINGS
        assert "```sh\n" in text.partition("## Look first")[2]
        assert f"[{name}]({name}.md) ({alert['labels']['severity']})" in index


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.stem)
def test_what_a_runbook_names_is_there(path: Path) -> None:
    text = path.read_text()
    for line in re.findall(r"(?:^|`)hedgerow ((?:--as \w+ |--output \w+ )*)([a-z][^`#\n|]*)", text, re.MULTILINE):
        _check_command(line[1].split())
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    fields = {f"HEDGEROW_{name}".upper() for config in CONFIGS for name in config.model_fields} | {"HEDGEROW_CONTEXT"}
    assert set(re.findall(r"HEDGEROW_\w+", text)) <= fields
    for link in re.findall(r"\]\(([^)]+\.md)\)", text):
        assert (RUNBOOKS / link).exists(), link
    for document in re.findall(r"\bdocs/[\w/.-]+\.md", text):
        assert (ROOT / document).exists(), document


def test_the_ports_in_the_runbooks_are_those_of_the_suite() -> None:
    index = (RUNBOOKS / "README.md").read_text()
    for service in SERVICES:
        assert f"{DEFAULT_PORTS[service] + METRICS_OFFSET} {service}" in index.replace("\n", " ")


def _check_command(words: list[str]) -> None:
    """Fail unless the command line has this command with these options."""
    command: click.Command = cli
    while words and isinstance(command, click.Group) and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    assert not isinstance(command, click.Group), words
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known, (command.name, words)
