"""What others could reach or read is refused at start unless a setting asks for it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from pydantic import SecretStr

from api.processes.companions import Companions
from api.processes.exposure import check_exposure
from api.processes.outside import check_outside
from api.processes.up import Up
from api.settings import Settings, load_settings
from ledger.errors import ConfigError
from ledger.kafka.settings import KafkaSettings, load_kafka_settings
from ledger.memory.log import MemoryLog
from ledger.memory.store import MemoryStore
from ledger.ports import free_port

ENCRYPTED: dict[str, Any] = {
    "payment_gateway_secret_key": SecretStr("sk_live_canary"),
    "payment_gateway_webhook_secrets": SecretStr("whsec_canary"),
    "notify_email_url": SecretStr("smtp+starttls://user:canary@mail.internal"),
    "product_service_url": "https://product.internal",
    "merch_service_grpc_target": "https://merch.internal:443",
}


def settings(**chosen: Any) -> Settings:
    return Settings(_env_file=None, **chosen)


def kafka(protocol: str) -> KafkaSettings:
    sasl = {"sasl_mechanism": "PLAIN", "sasl_username": "ledger", "sasl_password": "canary"}
    return KafkaSettings(_env_file=None, security_protocol=protocol, **(sasl if "SASL" in protocol else {}))


OPEN: list[tuple[str, str, str, dict[str, Any]]] = [  # protocol of Kafka, name, setting, other settings
    ("PLAINTEXT", "kafka", "KAFKA_SECURITY_PROTOCOL", {}),
    ("SASL_PLAINTEXT", "kafka", "KAFKA_SECURITY_PROTOCOL", {}),
    ("SSL", "smtp", "NOTIFY_EMAIL_URL", {"notify_email_url": SecretStr("SMTP://user:canary@mail.internal")}),
    ("SSL", "stock", "PRODUCT_SERVICE_URL", {"product_service_url": "http://product.internal"}),
    ("SSL", "stock", "MERCH_SERVICE_URL", {"merch_service_url": "http://merch.internal", "merch_service_grpc_target": None}),
    ("SSL", "stock", "MERCH_SERVICE_GRPC_TARGET", {"merch_service_grpc_target": "merch.internal:443"}),
    ("SSL", "stock", "MERCH_SERVICE_GRPC_TARGET", {"merch_service_grpc_target": "dns:///merch.internal:443"}),
    ("SSL", "oidc", "OIDC_ISSUER", {"oidc_issuer": "http://login.internal"}),
    ("SSL", "oidc", "OIDC_JWKS_URL", {"oidc_issuer": "https://login.internal", "oidc_jwks_url": "http://login.internal/keys"}),
]


@pytest.mark.parametrize(("protocol", "name", "setting", "other_settings"), OPEN)
def test_production_refuses_each_open_connection_unless_its_name_is_allowed(
    protocol: str, name: str, setting: str, other_settings: dict[str, Any]
) -> None:
    wanted = ENCRYPTED | other_settings | {"app_env": "production"}
    with pytest.raises(ConfigError) as caught:
        check_exposure(settings(**wanted), kafka(protocol))
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{setting} ")
    assert line.endswith(f"or {name} in ALLOW_PLAINTEXT")
    assert "canary" not in line

    others = ",".join({"kafka", "oidc", "smtp", "sms", "stock"} - {name})
    with pytest.raises(ConfigError, match=setting):
        check_exposure(settings(**wanted, allow_plaintext=others), kafka(protocol))
    with structlog.testing.capture_logs() as logs:
        check_exposure(settings(**wanted, allow_plaintext=f" {name} ,kafka"), kafka(protocol))
    assert [(entry["log_level"], entry["setting"]) for entry in logs] == [("warning", setting)]
    check_exposure(settings(**wanted | {"app_env": "development"}), kafka(protocol))


@pytest.mark.parametrize("protocol", ["SSL", "SASL_SSL"])
@pytest.mark.parametrize("mail", ["smtp+starttls://mail.internal", "smtps://mail.internal", None])
def test_production_starts_where_everything_is_encrypted(protocol: str, mail: str | None) -> None:
    chosen = ENCRYPTED | {"notify_email_url": mail and SecretStr(mail)}
    with structlog.testing.capture_logs() as logs:
        check_exposure(settings(app_env="production", **chosen), kafka(protocol))
    assert logs == []


def test_all_of_it_is_named_together_a_line_each() -> None:
    chosen = {"notify_email_url": SecretStr("smtp://m"), "product_service_url": "http://p", "merch_service_grpc_target": "m:1"}
    with pytest.raises(ConfigError) as caught:
        check_exposure(settings(app_env="production", **chosen), kafka("PLAINTEXT"))
    names = [line.split()[0] for line in str(caught.value).splitlines()]
    assert names == ["KAFKA_SECURITY_PROTOCOL", "NOTIFY_EMAIL_URL", "PRODUCT_SERVICE_URL", "MERCH_SERVICE_GRPC_TARGET"]


@pytest.mark.parametrize(
    ("url", "is_open"),
    [("json://sms.internal/", True), ("jsons://sms.internal/", False), (f"twilio://AC{'a' * 32}:{'b' * 32}@15005550006", False)],
)
def test_text_messages_without_tls_are_refused_as_well(url: str, is_open: bool) -> None:
    def start(**more: Any) -> Companions:
        chosen = settings(app_env="production", notify_sms_url=SecretStr(url), **ENCRYPTED, **more)
        return Companions(chosen, MemoryLog(), lambda name: MemoryStore())

    if is_open:
        with pytest.raises(ConfigError, match=r"^NOTIFY_SMS_URL .* or sms in ALLOW_PLAINTEXT$"):
            start()
    else:
        start()
    start(allow_plaintext="sms")


def test_an_unknown_name_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALLOW_PLAINTEXT", "kafka,smpt,Stock")
    with pytest.raises(
        ConfigError, match=r"^ALLOW_PLAINTEXT: .*Stock, smpt is not one of kafka, oidc, sms, smtp, stock, webhooks$"
    ):
        load_settings()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "ledger.internal"])
def test_other_machines_reach_no_process_whose_environment_is_not_set(host: str) -> None:
    with pytest.raises(ConfigError, match=rf"^HOST is {host}, .* set APP_ENV to production, or to development"):
        check_exposure(settings(host=host), kafka("PLAINTEXT"))
    check_exposure(settings(host=host, app_env="development"), kafka("PLAINTEXT"))
    check_exposure(settings(host=host, app_env="production", **ENCRYPTED), kafka("SSL"))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_development_is_the_default_on_loopback(host: str) -> None:
    check_exposure(settings(host=host), kafka("PLAINTEXT"))


@pytest.mark.parametrize("verb", ["serve", "commands"])
def test_a_process_says_so_before_anything_else_and_ends(verb: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name.upper() not in {"APP_ENV", "HOST"}}
    done = subprocess.run(
        [sys.executable, "-m", "api.cli", verb],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(Path(__file__).parents[2]), "APP_ENV": "production", "KAFKA_SECURITY_PROTOCOL": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error (config): KAFKA_SECURITY_PROTOCOL is PLAINTEXT: production needs SSL or SASL_SSL, or ")
    assert len(done.stderr.splitlines()) == 1


def test_the_broker_of_up_is_allowed_beside_what_the_shop_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALLOW_PLAINTEXT", "stock")
    environment = Up(tmp_path, 1, print)._child_environment("127.0.0.1:1", {"hash_key": "k", "tokens": {}})
    assert environment["ALLOW_PLAINTEXT"] == "kafka,stock"


# ---- the environment of `up`'s children -----------------------------------------------------------------------------

KEYS: dict[str, Any] = {"hash_key": "k" * 32, "tokens": {}, "webhook_secret": "whsec_x"}
OPERATIONS = (Path(__file__).parents[2] / "OPERATIONS.md").read_text("utf-8")
# the lines that set up `commands` and `serve` on a cluster
DOCUMENTED = dict(
    word.split("=", 1)
    for line in re.findall(r"^export (\S+=.*)$", OPERATIONS, re.MULTILINE)
    for word in shlex.split(line, comments=True)
)


def settings_of_children(up: Up, monkeypatch: pytest.MonkeyPatch) -> tuple[Settings, KafkaSettings]:
    monkeypatch.setattr(os, "environ", up._child_environment("127.0.0.1:1", KEYS))
    return load_settings(), load_kafka_settings()


@pytest.mark.parametrize("sandboxed", [False, True])
@pytest.mark.parametrize("written", [str.upper, str.lower])
def test_up_and_the_demo_start_in_an_environment_for_a_cluster(
    written: Callable[[str], str], sandboxed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert DOCUMENTED["KAFKA_REPLICATION_FACTOR"] == "3"
    monkeypatch.chdir(tmp_path)
    for name, value in (DOCUMENTED | {"LEDGER_TOKENS": '{"tokens": []}', "METRICS_PORT": "1"}).items():
        monkeypatch.setenv(written(name), value)
    up = Up(tmp_path, 1, print, sandboxed=sandboxed)
    chosen, cluster = settings_of_children(up, monkeypatch)
    check_exposure(chosen, cluster)
    assert (cluster.bootstrap_servers, cluster.security_protocol, cluster.replication_factor) == ("127.0.0.1:1", "PLAINTEXT", -1)
    assert (chosen.ledger_tokens, chosen.ledger_tokens_file) == (None, tmp_path / "tokens.json")
    assert chosen.hash_key() == KEYS["hash_key"].encode()
    assert chosen.metrics_port == 0
    assert check_outside(chosen) != sandboxed  # the shop's own services; the demo must not charge anybody


def test_the_demo_takes_no_setting_from_around_it_except_how_much_to_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("ALLOW_PLAINTEXT=nonsense\n")  # the children have another working directory
    names = [*Settings.model_fields, *(f"kafka_{name}" for name in KafkaSettings.model_fields)]
    for name in names:
        monkeypatch.setenv(name, "from around")
        monkeypatch.setenv(name.upper(), "from around")
    environment = Up(tmp_path / "data", 1, print, sandboxed=True)._child_environment("127.0.0.1:1", KEYS)
    assert {name for name, value in environment.items() if value == "from around"} == {"log_level", "LOG_LEVEL"}


def test_tokens_in_the_env_file_of_up_are_an_error_that_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text('LEDGER_TOKENS={"tokens": []}\n')
    for stand_ins in (True, False):
        with pytest.raises(ConfigError, match=r"^LEDGER_TOKENS is set in \.env, but `up` has tokens of its own"):
            Up(tmp_path / "data", free_port(), print, stand_ins=stand_ins).run(lambda _: None)
    assert not (tmp_path / "data" / "broker").exists()
    assert not (tmp_path / "data" / "run" / "up.json").exists()
