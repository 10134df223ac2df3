"""The units for systemd run verbs of the program, with settings that it has, and with few rights."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from api.cli.ops import contents
from api.cli.verbs import app
from api.processes.exposure import check_exposure
from api.processes.outside import check_outside
from api.settings import Settings
from ledger.kafka.settings import KafkaSettings
from tests.support.kubernetes_policy import SECRETS, SETTINGS, wrong_literals

PROCESSES = ("commands", "serve")
NO_RIGHTS = {
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "RestrictSUIDSGID": "yes",
    "SystemCallFilter": "@system-service",
}


def lines(name: str) -> list[str]:
    return [line for line in contents()[f"systemd/{name}"].splitlines() if line and not line.startswith(("#", "["))]


def unit(process: str) -> dict[str, list[str]]:
    """Values of each key of the unit."""
    values: dict[str, list[str]] = {}
    for line in lines(f"order-ledger-{process}.service"):
        key, _, value = line.partition("=")
        values.setdefault(key, []).append(value)
    return values


def variables(process: str) -> dict[str, str]:
    """What the unit itself sets."""
    return dict(pair.split("=", 1) for text in unit(process)["Environment"] for pair in text.split())


def settings() -> dict[str, str]:
    return dict(line.split("=", 1) for line in lines("settings.env"))


@pytest.mark.parametrize("process", PROCESSES)
def test_a_unit_runs_a_verb_of_the_program_as_a_user_without_rights(process: str) -> None:
    (command,) = unit(process)["ExecStart"]
    assert command.split() == ["/opt/order-ledger/bin/order-ledger", process]
    assert process in getattr(typer.main.get_command(app), "commands", {})
    assert unit(process).items() >= {key: [value] for key, value in NO_RIGHTS.items()}.items()
    (user,) = lines("order-ledger.sysusers")
    assert unit(process)["User"] == [user.split()[1]]


@pytest.mark.parametrize("process", PROCESSES)
def test_a_unit_writes_only_below_its_folder_and_is_started_again(process: str) -> None:
    assert variables(process)["STATE_DIR"] == f"/var/lib/{unit(process)['StateDirectory'][0]}"
    assert unit(process)["StateDirectoryMode"] == ["0700"]  # else the program could not use it
    assert unit(process)["Restart"] == ["on-failure"]
    assert unit(process)["StartLimitIntervalSec"] == ["0"]
    assert int(unit(process)["LimitNOFILE"][0]) >= 65_536


@pytest.mark.parametrize("process", PROCESSES)
def test_the_units_set_settings_and_no_secret(process: str) -> None:
    assert wrong_literals(variables(process)) == []
    assert wrong_literals(settings()) == []


def test_the_secrets_that_a_person_must_write_are_named() -> None:
    comment = contents()["systemd/settings.env"].split("\nAPP_ENV=")[0]
    named = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", comment.replace("\n#", "")))
    assert named == {
        "KAFKA_SASL_PASSWORD",
        "LEDGER_HASH_KEY",
        "PAYMENT_GATEWAY_SECRET_KEY",
        "PAYMENT_GATEWAY_WEBHOOK_SECRETS",
        "NOTIFY_EMAIL_URL",
    }
    assert named <= SECRETS


def test_the_program_starts_with_these_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    secrets = {"KAFKA_SASL_PASSWORD", "LEDGER_HASH_KEY", "PAYMENT_GATEWAY_SECRET_KEY", "PAYMENT_GATEWAY_WEBHOOK_SECRETS"}
    values = settings() | dict.fromkeys(secrets, "a-long-secret-of-a-test") | {"NOTIFY_EMAIL_URL": "smtps://mail.example.org"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    check_exposure(Settings(), KafkaSettings())
    assert check_outside(Settings())
    assert Settings().hash_key()
