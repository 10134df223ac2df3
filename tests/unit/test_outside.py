"""Which outside services the settings name, and that production uses none by accident."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from api.processes.companions import Companions
from api.processes.doors import build_message_doors, build_payments
from api.processes.outside import check_outside, needs_sandbox
from api.processes.sandbox import run_stand_ins
from api.processes.wiring import forget_contacts
from api.settings import Settings
from commands.notifier.email_door import EmlDoor
from commands.reconciler.stock_grpc import _host_of
from ledger.contact_rows import CONTACTS_STORE
from ledger.errors import ConfigError
from ledger.memory.log import MemoryLog
from ledger.memory.store import MemoryStore
from ledger.rocks_store import RocksStore

REAL: dict[str, Any] = {
    "payment_gateway_secret_key": SecretStr("sk_live_canary"),
    "payment_gateway_webhook_secrets": SecretStr("whsec_canary"),
    "product_service_url": "http://product.internal",
    "merch_service_grpc_target": "merch.internal:443",
    "notify_email_url": SecretStr("smtps://shop:canary@mail.internal"),
}


def settings(**chosen: Any) -> Settings:
    return Settings(_env_file=None, **chosen)


def test_production_starts_with_all_of_it() -> None:
    assert check_outside(settings(app_env="production", **REAL))
    assert not needs_sandbox(settings(app_env="production", **REAL))


@pytest.mark.parametrize("missing", REAL)
def test_production_names_what_is_missing_and_shows_no_secret(missing: str) -> None:
    chosen = {name: value for name, value in REAL.items() if name != missing}
    with pytest.raises(ConfigError) as caught:
        check_outside(settings(app_env="production", **chosen))
    assert missing.upper() in str(caught.value)
    assert "canary" not in str(caught.value)
    with pytest.raises(ConfigError):
        build_payments(settings(app_env="production", **chosen))


def test_production_refuses_the_sandbox_however_it_is_asked_for(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match="SANDBOX_URL"):
        check_outside(settings(app_env="production", sandbox_url="http://127.0.0.1:8420", **REAL))
    assert not needs_sandbox(settings(app_env="production"))
    with pytest.raises(ConfigError, match="production"):
        run_stand_ins(settings(app_env="production"), tmp_path, 8420, {})
    assert list(tmp_path.iterdir()) == []


def test_an_invalid_file_of_chaos_is_named(tmp_path: Any) -> None:
    wrong = tmp_path / "chaos.json"
    wrong.write_text('{"ports": {"payments": {"explode": 1}}}')
    with pytest.raises(ConfigError, match=r"chaos\.json: .*explode"):
        run_stand_ins(settings(), tmp_path / "sandbox", 8420, {}, wrong)


@pytest.mark.parametrize("url", ["http://sandbox.example.org", "http://10.0.0.7:8420", "http://0.0.0.0:8420", "nonsense"])
def test_the_sandbox_is_on_this_machine_only(url: str) -> None:
    with pytest.raises(ConfigError, match="loopback"):
        check_outside(settings(sandbox_url=url))


def test_development_without_settings_has_nothing_outside_and_up_starts_the_sandbox() -> None:
    assert not check_outside(settings())
    assert needs_sandbox(settings())
    assert build_payments(settings()) is None


def test_half_of_it_is_an_error_that_names_the_other_half() -> None:
    with pytest.raises(ConfigError, match="MERCH_SERVICE_URL"):
        check_outside(settings(**{name: value for name, value in REAL.items() if name != "merch_service_grpc_target"}))
    with pytest.raises(ConfigError, match="both set"):
        check_outside(settings(product_service_grpc_target="product.internal:443", **REAL))


def test_without_a_mail_server_messages_are_files(tmp_path: Any) -> None:
    doors = build_message_doors(settings(outbox_dir=tmp_path))
    assert isinstance(doors["email"], EmlDoor)
    assert set(doors) == {"email"}
    with_sms = settings(
        outbox_dir=tmp_path, notify_sms_url=SecretStr("twilio://AC00000000000000000000000000000000:token@15005550006")
    )
    assert set(build_message_doors(with_sms)) == {"email", "sms"}
    with pytest.raises(ConfigError) as caught:
        build_message_doors(settings(notify_sms_url=SecretStr("nonsense://canary")))
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("proxy", "settings_of", "said"),
    [
        ("socks5://user:canary@127.0.0.1:1080", REAL, "ALL_PROXY names a SOCKS proxy"),
        ("http://canary:canary", REAL, "ALL_PROXY is not the address of a proxy"),
        ("", REAL | {"product_service_url": "product.internal"}, "PRODUCT_SERVICE_URL: not an address"),
    ],
)
def test_an_address_that_cannot_be_called_is_one_line_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, proxy: str, settings_of: dict[str, Any], said: str
) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("all_proxy", proxy)
    with pytest.raises(ConfigError, match=said) as caught:
        check_outside(settings(app_env="production", **settings_of))
    assert "canary" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert check_outside(settings(sandbox_url="http://127.0.0.1:8900"))


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("127.0.0.1:50051", "127.0.0.1"),
        ("https://localhost:50051", "localhost"),
        ("[::1]:50051", "::1"),
        ("dns:///stock.internal:443", "stock.internal"),
        ("dns:localhost:443", "localhost"),
        ("ipv4:127.0.0.1:443", "127.0.0.1"),
        ("stock.internal", "stock.internal"),
    ],
)
def test_the_host_of_a_grpc_target_is_found(target: str, host: str) -> None:
    assert _host_of(target) == host


def test_contacts_of_a_notifier_that_no_longer_runs_are_deleted(tmp_path: Any) -> None:
    store = RocksStore(tmp_path / CONTACTS_STORE)
    store.write({b"ord_1/d": b"ada@example.org"})
    store.close()
    (tmp_path / "writer-0").mkdir()
    assert Companions(settings(sandbox_url="http://127.0.0.1:8420"), MemoryLog(), lambda name: MemoryStore()).keeps_contacts
    assert not Companions(settings(), MemoryLog(), lambda name: MemoryStore()).keeps_contacts
    forget_contacts(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["writer-0"]
    forget_contacts(tmp_path)
