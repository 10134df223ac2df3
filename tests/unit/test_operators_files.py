"""Dashboard, alert rules and runbook fit each other; `ops export` writes them all, and never over somebody's changes."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from api.cli.ops import ALERTS, DASHBOARD, DASHBOARD_COPY, RULE_OBJECT, RUNBOOK, contents
from api.cli.verbs import app
from api.problems import PROBLEMS
from ledger.errors import ConfigError, LedgerError
from tests.support.alert_drills import DRILLS
from tests.support.kubernetes_policy import SETTINGS
from tests.support.operators_files import alerts, dashboard, panels, parsed, queries_of_dashboard, selectors, unknown

OPS = Path(__file__).parents[2] / "api" / "ops"
JOBS = {"order-ledger-commands", "order-ledger-serve"}


# ---- alerts and the runbook -----------------------------------------------------------------------------------------


def paragraphs() -> dict[str, str]:
    """Text of each alert in the runbook, by its heading."""
    parts = re.split(r"^### (.+)$", contents()[RUNBOOK], flags=re.MULTILINE)
    return {
        name: re.split(r"^## ", text, flags=re.MULTILINE)[0].strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def test_each_alert_has_its_paragraph_in_the_runbook_and_each_paragraph_its_alert() -> None:
    assert list(paragraphs()) == list(alerts())
    assert len(alerts()) > 30


@pytest.mark.parametrize("name", alerts())
def test_an_alert_names_its_paragraph_which_says_how_urgent_it_is(name: str) -> None:
    rule = alerts()[name]
    assert rule["annotations"]["runbook_url"] == f"{RUNBOOK}#{name.lower()}"
    text = paragraphs()[name]
    assert text.startswith(f"{rule['labels']['severity'].capitalize()}. ")
    assert len(text) > 150


@pytest.mark.parametrize("name", alerts())
def test_an_alert_has_a_summary_and_a_known_severity(name: str) -> None:
    rule = alerts()[name]
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"].keys() == {"summary", "runbook_url"}
    assert not rule["annotations"]["summary"].endswith(".")


@pytest.mark.parametrize("name", alerts())
def test_a_summary_uses_only_labels_that_the_alert_has(name: str) -> None:
    used = set(re.findall(r"\$labels\.(\w+)", alerts()[name]["annotations"]["summary"]))
    assert used <= set(DRILLS[name].labels)


def test_each_alert_has_a_drill() -> None:
    assert set(DRILLS) == set(alerts())


def test_the_alerts_name_the_jobs_of_the_scrape_configuration() -> None:
    scraped = yaml.safe_load(contents()["prometheus/scrape_configs.yml"])["scrape_configs"]
    assert {job["job_name"] for job in scraped} == JOBS
    selected = [one for rule in alerts().values() for one in selectors(rule["expr"])]
    patterns = {matcher.value for one in selected for matcher in one.matchers.matchers if matcher.name == "job"}
    assert {job for pattern in patterns for job in JOBS if re.fullmatch(pattern, job)} == JOBS
    assert [pattern for pattern in patterns if not any(re.fullmatch(pattern, job) for job in JOBS)] == []


def test_the_rules_for_the_operator_of_prometheus_are_the_same_rules() -> None:
    rule = yaml.safe_load(contents()[RULE_OBJECT])
    assert (rule["apiVersion"], rule["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert rule["spec"] == yaml.safe_load(contents()[ALERTS])
    assert contents()[DASHBOARD_COPY] == contents()[DASHBOARD]


# ---- names in the pages ---------------------------------------------------------------------------------------------


PAGES = {"runbook": "api/ops/RUNBOOK.md", "README": "api/ops/README.md", "operations": "OPERATIONS.md"}


def page(name: str) -> str:
    """Text of a page; of OPERATIONS.md only what is about Kubernetes and systemd, without the tables of settings."""
    text = (OPS.parents[1] / PAGES[name]).read_text("utf-8")
    return text.partition("## On Kubernetes and with systemd\n")[2].partition("\n## ")[0] if name == "operations" else text


@pytest.mark.parametrize("name", PAGES)
def test_every_verb_that_a_page_names_exists(name: str) -> None:
    known = typer.main.get_command(app)
    named = re.findall(r"order-ledger ([a-z][a-z-]+(?: (?:end|export|finish|set|show|status)\b)?)", page(name))
    assert named
    for words in named:
        command: Any = known
        for word in words.split():
            assert word in getattr(command, "commands", {}) or not hasattr(command, "commands"), words
            command = getattr(command, "commands", {}).get(word, command)


@pytest.mark.parametrize("name", PAGES)
def test_every_setting_that_a_page_names_exists(name: str) -> None:
    named = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", page(name)))
    assert named - SETTINGS == set()


def test_every_code_that_the_runbook_names_is_one_of_the_program() -> None:
    text = contents()[RUNBOOK]
    codes = {cls.code for cls in every(LedgerError)}
    named = set(re.findall(r"`([a-z]+(?:[_-][a-z]+)+)`", text))
    assert len(named) > 8
    assert named - codes - set(PROBLEMS) - {"settled_elsewhere", "order-events"} == set()


def every(cls: type[LedgerError]) -> set[type[LedgerError]]:
    return {cls}.union(*(every(one) for one in cls.__subclasses__()))


# ---- the dashboard --------------------------------------------------------------------------------------------------


def test_the_dashboard_asks_the_data_source_that_the_reader_chooses() -> None:
    (variable,) = dashboard()["templating"]["list"]
    assert (variable["name"], variable["type"], variable["query"]) == ("datasource", "datasource", "prometheus")
    sources = [panel["datasource"] for panel in panels()] + [t["datasource"] for panel in panels() for t in panel["targets"]]
    assert {json.dumps(one, sort_keys=True) for one in sources} == {'{"type": "prometheus", "uid": "${datasource}"}'}


def test_each_panel_says_what_it_shows_and_in_which_unit() -> None:
    assert len(panels()) > 40
    for panel in panels():
        assert len(panel["description"]) > 10, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]), panel["title"]
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(ids)) == len(ids)


def overlaps(one: dict[str, int], other: dict[str, int]) -> bool:
    return (
        one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    )


def test_no_panel_covers_another_one_or_leaves_the_page() -> None:
    places = [panel["gridPos"] for panel in dashboard()["panels"]]
    assert [place for place in places if place["x"] + place["w"] > 24] == []
    assert [pair for pair in combinations(places, 2) if overlaps(*pair)] == []
    assert overlaps({"x": 0, "y": 0, "w": 8, "h": 8}, {"x": 7, "y": 7, "w": 8, "h": 8})


@pytest.mark.parametrize("query", sorted({query for _, query in queries_of_dashboard()}))
def test_a_query_of_the_dashboard_is_one(query: str) -> None:
    parsed(query)


@pytest.mark.parametrize(
    ("query", "missing"),
    [
        ("rate(a_total[5m]) / on (x) sum by (x) (b)", []),
        ('a_total{x="1",job="j",instance="i"}', []),
        ("c", ["there is no c"]),
        ("sum(rate(c_total[$__rate_interval]))", ["there is no c_total"]),
        ('a_total{y="1"}', ["a_total has no label y"]),
        ("sum by (y) (rate(a_total[5m]))", ["a_total has no label y"]),
        ("a_total and on (y) b", ["a_total has no label y"]),
    ],
)
def test_a_metric_or_label_that_does_not_exist_is_seen(query: str, missing: list[str]) -> None:
    assert unknown(query, {"a_total": frozenset({"x"}), "b": frozenset({"x", "y"})}) == missing


# ---- the verb -------------------------------------------------------------------------------------------------------


def export(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["ops", "export", *arguments], env={"COLUMNS": "200", "NO_COLOR": "1"})


def texts_in(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in folder.rglob("*") if path.is_file()}


def test_the_export_writes_every_file_that_the_package_has(tmp_path: Path) -> None:
    shown = export(str(tmp_path / "ops"), "--json")
    assert shown.exit_code == 0, shown.output
    written = texts_in(tmp_path / "ops")
    assert set(written) == set(json.loads(shown.stdout)["files"])
    shipped = texts_in(OPS)
    assert {ALERTS, DASHBOARD, RUNBOOK} <= set(shipped)
    assert shipped.items() <= written.items()
    assert set(written) - set(shipped) == {RULE_OBJECT, DASHBOARD_COPY}


def test_a_second_export_changes_nothing(tmp_path: Path) -> None:
    assert export(str(tmp_path)).exit_code == 0
    before = texts_in(tmp_path)
    assert export(str(tmp_path)).exit_code == 0
    assert texts_in(tmp_path) == before


def test_a_changed_file_is_not_replaced_unless_that_is_asked_for(tmp_path: Path) -> None:
    export(str(tmp_path))
    changed, removed = tmp_path / ALERTS, tmp_path / DASHBOARD
    changed.write_text("# mine\n")
    removed.unlink()
    refused = export(str(tmp_path))
    assert isinstance(refused.exception, ConfigError)
    assert ALERTS in str(refused.exception)
    assert DASHBOARD not in str(refused.exception)
    assert (changed.read_text(), removed.exists()) == ("# mine\n", False)
    assert export(str(tmp_path), "--force").exit_code == 0
    assert texts_in(tmp_path) == contents()


def test_alerts_name_the_runbook_where_the_reader_has_it(tmp_path: Path) -> None:
    export(str(tmp_path), "--runbook-url", "https://wiki.example.org/ledger")
    for name in (ALERTS, RULE_OBJECT):
        text = (tmp_path / name).read_text()
        urls = re.findall(r"runbook_url: (\S+)", text)
        assert urls == [f"https://wiki.example.org/ledger#{name.lower()}" for name in alerts()]
