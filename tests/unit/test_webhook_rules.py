"""The pure rules of outgoing webhooks: signatures, addresses, the records of endpoints."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress

import pytest
from msgspec.structs import replace

from commands.webhooks.addresses import address_in, is_odd_number, is_public
from commands.webhooks.endpoints import (
    DISABLE_MS,
    FAILING,
    ROTATION_MS,
    Endpoint,
    EndpointsView,
    Health,
    Off,
    encode,
    endpoint_key,
    health_key,
    is_hopeless,
    off_key,
)
from commands.webhooks.signing import digest_of, headers, secret_of, shown, signature
from ledger.log import Record

KEY = b"0123456789abcdef"
ENDPOINT = Endpoint(url="https://a.example/hook", created_at=1, enabled_at=1, salt="s1", digest="d", start={0: 5}, started_at=1)


# ---- signatures -----------------------------------------------------------------------------------------------------


def test_the_published_example_of_standard_webhooks_has_this_signature() -> None:
    """From the specification's reference libraries (github.com/standard-webhooks/standard-webhooks, `test_webhooks`)."""
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signed = signature([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_while_a_secret_is_rotated_messages_have_two_signatures() -> None:
    old, new = secret_of(KEY, "shop", "s1"), secret_of(KEY, "shop", "s2")
    sent = headers([new, old], "ord_a/1", 7, b"{}")
    assert sent["webhook-id"] == "ord_a/1"
    assert sent["webhook-timestamp"] == "7"
    assert sent["webhook-signature"].split(" ") == [signature([new], "ord_a/1", 7, b"{}"), signature([old], "ord_a/1", 7, b"{}")]
    expected = base64.b64encode(hmac.new(new, b"ord_a/1.7.{}", hashlib.sha256).digest()).decode()
    assert sent["webhook-signature"].startswith(f"v1,{expected} ")


def test_a_secret_depends_on_the_key_the_endpoint_and_the_salt_and_its_digest_does_not_show_it() -> None:
    secrets = {
        secret_of(KEY, "shop", "s1"),
        secret_of(KEY, "shop", "s2"),
        secret_of(KEY, "erp", "s1"),
        secret_of(b"x", "shop", "s1"),
    }
    assert len(secrets) == 4
    assert {len(secret) for secret in secrets} == {32}
    secret = secret_of(KEY, "shop", "s1")
    assert shown(secret).startswith("whsec_")
    assert base64.b64decode(shown(secret).removeprefix("whsec_")) == secret
    assert digest_of(secret) not in (secret.hex(), secret.hex()[:16], hashlib.sha256(secret).hexdigest()[:16])


# ---- addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "64:ff9b::101:101"])
def test_a_public_address_is_allowed(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "fd12::1",
        "fec0::1", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::", "2002:a00:1::1", "192.0.0.1", "192.0.0.192", "192.0.0.9", "168.63.129.16", "::ffff:168.63.129.16",
        "64:ff9b:1::a00:1", "5f00::1",
    ],
)  # fmt: skip
def test_an_address_that_is_not_public_is_refused(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


def test_a_host_is_an_address_or_a_name() -> None:
    assert address_in("[::1]") == ipaddress.ip_address("::1")
    assert address_in("fe80::1%eth0") == ipaddress.ip_address("fe80::1")
    assert address_in("127.0.0.1") == ipaddress.ip_address("127.0.0.1")
    assert address_in("example.org") is None
    assert address_in("2130706433") is None
    odd = ("2130706433", "127.1", "0x7f.1", "example.7", "1.2.3.4.5", "0X", "127.0.0.1.")
    assert [host for host in odd if not is_odd_number(host)] == []
    assert [
        host for host in ("127.0.0.1", "[::1]", "example.org", "7.example", "0x7f.example", "a7") if is_odd_number(host)
    ] == []


# ---- records --------------------------------------------------------------------------------------------------------


def view_of(*records: tuple[bytes, bytes | None]) -> EndpointsView:
    view = EndpointsView()
    view.apply(Record("order-control", 0, offset, 0, key, value) for offset, (key, value) in enumerate(records))
    return view


def test_an_endpoint_is_active_until_it_is_disabled_deleted_or_off_and_again_when_it_is_enabled_later() -> None:
    endpoint, off = (endpoint_key("shop"), encode(ENDPOINT)), (off_key("shop"), encode(Off(1, 9, FAILING)))
    later = Endpoint(**{name: getattr(ENDPOINT, name) for name in ENDPOINT.__struct_fields__} | {"enabled_at": 20})
    assert view_of(endpoint).is_active("shop")
    assert not view_of(endpoint, off).is_active("shop")
    assert view_of(off, endpoint).off("shop") == Off(1, 9, FAILING)
    assert view_of(endpoint, off, (endpoint_key("shop"), encode(later))).is_active("shop")
    assert not view_of(endpoint, (endpoint_key("shop"), None)).is_active("shop")
    assert view_of(endpoint).endpoints["shop"] == ENDPOINT


def test_other_records_of_the_topic_and_what_is_not_understood_change_nothing() -> None:
    view = view_of(
        (b"level", b"{}"), (b"node/serve/a", None), (endpoint_key("shop"), b"{"), (endpoint_key("erp"), encode(ENDPOINT))
    )
    assert list(view.endpoints) == ["erp"]
    assert len(view.faults) == 1
    assert view.position == 4


def test_an_endpoint_fails_only_while_no_node_succeeds() -> None:
    a = (health_key("shop", "a"), encode(Health(failing_since=50, failed_at=90, error="timed_out", failed=4, waiting=2)))
    b = (health_key("shop", "b"), encode(Health(succeeded_at=40, delivered=3)))
    assert view_of(a, b).health("shop") == Health(50, 40, 90, "timed_out", 3, 4, 0, 2)
    c = (health_key("shop", "b"), encode(Health(succeeded_at=60, delivered=4)))
    assert view_of(a, b, c).health("shop").failing_since == 0


def test_the_health_of_an_earlier_endpoint_with_the_name_does_not_count() -> None:
    shop, again = endpoint_key("shop"), replace(ENDPOINT, created_at=100)
    old = (health_key("shop", "old"), encode(Health(failing_since=50, failed_at=90, error="timed_out", failed=4, waiting=2)))
    now = (health_key("shop", "now"), encode(Health(succeeded_at=100, delivered=1)))
    assert view_of((shop, encode(ENDPOINT)), old).health("shop").failed == 4
    recreated = view_of((shop, encode(ENDPOINT)), old, (shop, None), (shop, encode(again)))
    assert recreated.health("shop") == Health()
    assert recreated.healths_of("shop") == {}
    assert view_of(old, (shop, encode(again)), now).health("shop") == Health(succeeded_at=100, delivered=1)


def test_a_week_of_failures_since_it_was_enabled_is_hopeless() -> None:
    failing = Health(failing_since=100)
    assert not is_hopeless(failing, 0, 100 + DISABLE_MS - 1)
    assert is_hopeless(failing, 0, 100 + DISABLE_MS)
    assert not is_hopeless(failing, 200, 100 + DISABLE_MS), "it was enabled again since"
    assert not is_hopeless(Health(succeeded_at=1), 0, 100 + DISABLE_MS)


def test_after_a_rotation_the_previous_secret_signs_for_a_day() -> None:
    rotated = Endpoint(
        url="u", created_at=1, enabled_at=1, salt="new", digest="d", previous_salt="old", rotated_at=1000, start={}, started_at=1
    )
    assert rotated.salts(1000 + ROTATION_MS - 1) == ["new", "old"]
    assert rotated.salts(1000 + ROTATION_MS) == ["new"]
    assert ENDPOINT.salts(5) == ["s1"]
