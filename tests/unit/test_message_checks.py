"""The verbs about messages: what `check` finds in templates, and what `preview` shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from api.cli.verbs import app
from api.processes.doors import shop_of
from api.settings import Settings, load_settings
from commands.notifier.checking import check
from commands.notifier.composing import Shop
from commands.notifier.notices import NOTICES
from commands.notifier.samples import NUMBER
from commands.notifier.template_files import SHIPPED_TEMPLATES
from ledger.errors import ConfigError
from tests.support.messages import BROKEN, write


def faults(folder: Path, language: str = "en") -> list[tuple[str, int | None, str]]:
    return [(one.template, one.line, one.kind) for one in check(Shop("Shop", language, folder=folder)).faults]


@pytest.mark.parametrize("breakage", BROKEN)
def test_each_kind_of_broken_template_is_found_with_its_line(breakage: str, tmp_path: Path) -> None:
    source, kind, line = BROKEN[breakage]
    write(tmp_path, "en/placed.email.txt", source)
    assert faults(tmp_path) == [("en/placed.email.txt", line, kind)]


@pytest.mark.parametrize(
    ("name", "source", "kind"),
    [
        ("de/shipped.sms.txt", "{% if shipment.carrier == 'DHL' %}{{ shipment.number }}{% endif %}x", "fails"),
        ("de/refunded.email.html", "{% if refund.is_part %}{{ refunds }}{% endif %}x", "fails"),
        ("en/cancelled.sms.txt", "{% if cancel_reason == 'fraud' %}{{ fraud }}{% endif %}x", "fails"),
        ("en/placed.sms.txt", "{{ order.reference.upper() }}", "fails"),
        ("en/delivered.sms.txt", " \n ", "empty"),
        ("en/delivered.email.html", "{# nothing #}", "empty"),
    ],
)
def test_what_fails_for_some_orders_only_is_found(name: str, source: str, kind: str, tmp_path: Path) -> None:
    write(tmp_path, name, source)
    ((template, _, fault),) = faults(tmp_path)
    assert (template, fault) == (name, kind)


def test_a_fault_of_an_included_file_is_named_once_with_the_file(tmp_path: Path) -> None:
    write(tmp_path, "layout.email.html", "\n{{ colour }}{% block message %}{% endblock %}")
    assert faults(tmp_path) == [("layout.email.html", 2, "fails")]
    write(tmp_path, "layout.email.html", "{% block message %}")
    assert faults(tmp_path) == [("layout.email.html", 1, "syntax")]


def test_what_a_new_language_lacks_is_named(tmp_path: Path) -> None:
    write(tmp_path, "fr/placed.email.txt", "Subject: x\nx")
    assert faults(tmp_path) == [(f"fr/{notice}.email.txt", None, "missing") for notice in sorted(NOTICES) if notice != "placed"]
    for notice in NOTICES:
        write(tmp_path, f"fr/{notice}.email.txt", "Subject: x\nx")
    assert faults(tmp_path) == []
    write(tmp_path, "fr/placed.email.html", "x")
    assert {kind for _, _, kind in faults(tmp_path)} == {"missing"}
    assert len(faults(tmp_path)) == len(NOTICES) - 1
    (tmp_path / "fr" / "placed.email.html").unlink()
    write(tmp_path, "de-AT/placed.email.txt", "Subject: x\nx")
    assert faults(tmp_path) == [], "the less detailed language has the others"


def test_names_that_nobody_uses_are_found(tmp_path: Path) -> None:
    write(tmp_path, "en/plaecd.email.txt", "Subject: x\nx")
    write(tmp_path, "en/placed.email.htm", "x")
    write(tmp_path, "README.md", "notes")
    write(tmp_path, ".git/config", "x")
    assert faults(tmp_path) == [("en/placed.email.htm", None, "unused"), ("en/plaecd.email.txt", None, "unused")]
    write(tmp_path, "en/placed.sms.txt", "{% include 'en/plaecd.email.txt' %}{% include 'en/placed.email.htm' %}")
    assert faults(tmp_path) == []


@pytest.mark.parametrize(
    ("folder", "says"), [("de-at", "write it de-AT"), ("de_AT", "not a language tag"), ("tlh", "Babel does not know it")]
)
def test_a_folder_that_is_no_language_is_found(folder: str, says: str, tmp_path: Path) -> None:
    for notice in NOTICES:
        write(tmp_path, f"{folder}/{notice}.email.txt", "Subject: x\nx")
    reported = check(Shop("Shop", folder=tmp_path)).faults
    assert (f"{folder}/", "language") in [(one.template, one.kind) for one in reported]
    assert any(says in one.detail for one in reported)


def test_a_language_of_the_shop_without_templates_is_found(tmp_path: Path) -> None:
    assert faults(tmp_path, "it-CH") == [("it-CH/", None, "language")]
    assert faults(tmp_path, "de-AT") == []


def test_a_text_in_html_is_found_because_its_values_would_not_be_escaped(tmp_path: Path) -> None:
    write(tmp_path, "en/delivered.email.html", "{% include 'en/order.email.txt' %}")
    assert faults(tmp_path) == [("en/delivered.email.html", None, "unescaped")]
    write(tmp_path, "en/delivered.email.html", "{{ name }}")
    assert faults(tmp_path) == []
    write(tmp_path, "en/delivered.email.html", "{{ name | safe }}")
    assert faults(tmp_path) == [("en/delivered.email.html", None, "unescaped")]


# ---- the verbs ------------------------------------------------------------------------------------------------------


def verb(*arguments: str, folder: Path | None = None, **environment: str) -> Any:
    env = {"NOTIFY_TEMPLATES_DIR": "" if folder is None else str(folder), "COLUMNS": "200", "NO_COLOR": "1", **environment}
    return CliRunner().invoke(app, ["messages", *arguments], env=env)


def test_check_says_what_is_wrong_and_ends_with_one(tmp_path: Path) -> None:
    good = verb("check")
    assert (good.exit_code, "54 templates in de, en" in good.stdout, " 0 faults" in good.stdout) == (0, True, True)
    write(tmp_path, "de/placed.email.html", "\n{{ custmer }}")
    bad = verb("check", folder=tmp_path)
    assert bad.exit_code == 1
    for word in ("de/placed.email.html", "2", "fails", "'custmer' is undefined", "an ordinary order"):
        assert word in bad.stdout
    listed = verb("check", "--json", folder=tmp_path)
    assert listed.exit_code == 1
    answer = json.loads(listed.stdout)
    assert (answer["ok"], answer["languages"], answer["templates"]) == (False, ["de", "en"], 54)
    assert [(one["template"], one["line"], one["kind"]) for one in answer["faults"]] == [("de/placed.email.html", 2, "fails")]
    assert json.loads(verb("check", "--json").stdout)["ok"]
    assert isinstance(verb("check", folder=tmp_path / "none").exception, ConfigError)


def test_preview_shows_each_message_of_the_sample_in_each_language_and_form(tmp_path: Path) -> None:
    for notice in NOTICES:
        for language in ("en", "de-AT"):
            for form in ("text", "html", "sms"):
                shown = verb("preview", "sample", "--message", notice, "--language", language, "--form", form)
                assert shown.exit_code == 0
                assert NUMBER in shown.stdout
                assert shown.stdout.startswith("<!DOCTYPE html>") == (form == "html")
                assert shown.stdout.startswith("Subject: ") == (form == "text")
    assert "language de, from de/placed.sms.txt" in verb("preview", "--language", "de-AT", "--form", "sms").stderr
    parts = json.loads(verb("preview", "--json", "--language", "de").stdout)
    assert (parts["language"], parts["subject"]) == ("de", f"Ihre Bestellung {NUMBER}")
    assert parts["templates"] == ["de/placed.email.txt", "de/placed.email.html"]
    assert parts["html"].startswith("<!DOCTYPE html>")


def test_preview_says_why_a_template_fails_or_what_is_not_to_choose(tmp_path: Path) -> None:
    write(tmp_path, "en/placed.email.txt", "Subject: x\n{{ custmer }}")
    failed = verb("preview", folder=tmp_path)
    assert failed.exit_code == 1
    assert "en/placed.email.txt:2: fails: UndefinedError: 'custmer' is undefined" in failed.stderr
    write(tmp_path, "ar/placed.email.txt", "Subject: x\nx")
    no_html = verb("preview", "--language", "ar", "--form", "html", folder=tmp_path)
    assert (no_html.exit_code, "no HTML part" in no_html.stderr) == (1, True)
    for wrong in (("--message", "lost"), ("--form", "pdf")):
        refused = verb("preview", *wrong)
        assert (refused.exit_code, "choose one of" in refused.stderr) == (2, True)
    assert isinstance(verb("preview", "--language", "de_AT").exception, ConfigError)


# ---- settings -------------------------------------------------------------------------------------------------------


def test_the_shop_is_what_the_settings_say() -> None:
    settings = Settings(
        _env_file=None,
        notify_from="Bean & Leaf <shop@example.org>",
        notify_language="de-AT",
        notify_time_zone="Europe/Vienna",
        notify_templates_dir=SHIPPED_TEMPLATES,
    )
    shop = shop_of(settings)
    assert (shop.name, shop.language, str(shop.zone), shop.folder) == ("Bean & Leaf", "de-AT", "Europe/Vienna", SHIPPED_TEMPLATES)
    assert shop_of(Settings(_env_file=None, notify_from="shop@example.org")).name == "example.org"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NOTIFY_LANGUAGE", "german"),
        ("NOTIFY_LANGUAGE", "de_AT"),
        ("NOTIFY_TIME_ZONE", "Europe/Nowhere"),
        ("NOTIFY_TIME_ZONE", "America"),
        ("NOTIFY_TIME_ZONE", "../etc/passwd"),
    ],
)
def test_a_setting_that_cannot_be_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=name) as caught:
        load_settings()
    assert value not in str(caught.value)
