"""Prometheus' own promtool: the rules and the scrape configuration are valid, and each alert fires in its drill and only then."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from api.cli.ops import ALERTS, contents
from tests.support.alert_drills import DRILLS, drill_file
from tests.support.prometheus import program

pytestmark = [pytest.mark.promtool, pytest.mark.timeout(4_000)]  # the first one builds it, unless the machine has it


@pytest.fixture(scope="module")
def promtool() -> Path:
    return program("promtool")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What `ops export` writes."""
    for name, text in contents().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    return tmp_path


def run(promtool: Path, *arguments: str | Path) -> tuple[int, str]:
    command = [str(promtool), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_rules_are_valid(promtool: Path, folder: Path) -> None:
    code, said = run(promtool, "check", "rules", folder / ALERTS)
    assert code == 0, said
    assert f"{len(DRILLS)} rules found" in said


def test_the_scrape_configuration_is_valid(promtool: Path, folder: Path) -> None:
    code, said = run(promtool, "check", "config", "--syntax-only", folder / "prometheus/scrape_configs.yml")
    assert code == 0, said


def test_each_alert_fires_in_its_drill_and_none_in_a_healthy_ledger(promtool: Path, folder: Path) -> None:
    tests = folder / "drills.yml"
    tests.write_text(json.dumps(drill_file(str(folder / ALERTS))))
    code, said = run(promtool, "test", "rules", tests)
    assert code == 0, said
    assert "SUCCESS" in said


@pytest.mark.parametrize("name", DRILLS)
def test_a_rule_that_never_fires_fails_its_drill(promtool: Path, folder: Path, name: str) -> None:
    rules = yaml.safe_load((folder / ALERTS).read_text())
    (rule,) = [rule for group in rules["groups"] for rule in group["rules"] if rule["alert"] == name]
    rule["expr"] = f"({rule['expr']}) and on () vector(0) > 0"
    (folder / ALERTS).write_text(json.dumps(rules))
    tests = folder / "drills.yml"
    tests.write_text(json.dumps(drill_file(str(folder / ALERTS), only=name)))
    code, said = run(promtool, "test", "rules", tests)
    assert code != 0
    assert f"alertname: {name}" in said
