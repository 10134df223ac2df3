"""Token buckets: how much each may take, what long work costs, how long to wait, and when a bucket is forgotten."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from api.callers.auth import Principal
from api.callers.limits import BURST_S, Buckets, RateLimits
from api.problems import Problem
from api.settings import Settings

WEB, DESK = Principal("web", "gateway"), Principal("desk", "admin")


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def limits(clock: Clock, gateway: int = 1_000, customer: int = 10, staff: int = 20) -> RateLimits:
    settings = Settings(
        _env_file=None, limit_gateway_per_second=gateway, limit_customer_per_second=customer, limit_staff_per_second=staff
    )
    return RateLimits(settings, clock)


def taken(take: Callable[[], None], most: int = 10_000) -> int:
    """How often `take` succeeded."""
    count = 0
    while count <= most:
        try:
            take()
        except Problem:
            break
        count += 1
    with pytest.raises(Problem) as refused:
        take()
    assert (refused.value.slug, refused.value.status) == ("too-many-requests", 429)
    assert int(refused.value.headers["Retry-After"]) >= 1
    return count


def test_ten_seconds_worth_may_come_together_and_then_so_many_a_second(clock: Clock) -> None:
    rate_limits = limits(clock)
    assert taken(lambda: rate_limits.take_customer("c-1")) == 10 * BURST_S
    assert taken(lambda: rate_limits.take_customer("c-2")) == 10 * BURST_S, "another customer has a bucket of their own"
    clock.now += 1
    assert taken(lambda: rate_limits.take_customer("c-1")) == 10
    clock.now += 0.5
    assert taken(lambda: rate_limits.take_customer("c-1")) == 5
    clock.now += 1_000_000
    assert taken(lambda: rate_limits.take_customer("c-1")) == 10 * BURST_S, "never more"


def test_staff_and_gateways_have_limits_of_their_own(clock: Clock) -> None:
    rate_limits = limits(clock)
    assert taken(lambda: rate_limits.take(DESK)) == 20 * BURST_S
    assert taken(lambda: rate_limits.take(Principal("desk", "reader"))) == 20 * BURST_S, "one name, two roles"
    assert taken(lambda: rate_limits.take(WEB)) == 1_000 * BURST_S


def test_a_client_that_waits_as_long_as_it_should_gets_one(clock: Clock) -> None:
    rate_limits = limits(clock, customer=1)
    taken(lambda: rate_limits.take_customer("c-1"))
    with pytest.raises(Problem) as refused:
        rate_limits.take_customer("c-1")
    clock.now += int(refused.value.headers["Retry-After"])
    rate_limits.take_customer("c-1")


def test_long_work_is_paid_afterwards_by_principal_and_customer(clock: Clock) -> None:
    rate_limits = limits(clock)
    rate_limits.charge(WEB, "c-1", 0.095)
    assert taken(lambda: rate_limits.take_customer("c-1")) == 10 * BURST_S - 95
    assert taken(lambda: rate_limits.take(WEB)) == 1_000 * BURST_S - 95
    rate_limits.charge(DESK, "", 1.0)
    with pytest.raises(Problem) as refused:
        rate_limits.take(DESK)
    assert refused.value.headers["Retry-After"] == "41", "800 tokens are owed, 20 come a second"
    clock.now += 40
    assert taken(lambda: rate_limits.take(DESK)) == 0
    clock.now += 1
    assert taken(lambda: rate_limits.take(DESK)) > 0


@pytest.mark.parametrize("seed", range(3))
def test_it_agrees_with_a_simple_bucket(seed: int, clock: Clock) -> None:
    choice, buckets = random.Random(seed), Buckets(clock)
    expected = dict.fromkeys("abc", (70.0, clock.now))
    for _ in range(2_000):
        clock.now += choice.choice((0.0, 0.01, 0.3, 3.0))
        name, tokens = choice.choice("abc"), choice.choice((1.0, 1.0, 2.5, 40.0))
        was, at = expected[name]
        left = min(70.0, was + (clock.now - at) * 7.0)
        if choice.random() < 0.2:
            buckets.charge(name, 7.0, tokens)
            expected[name] = left - tokens, clock.now
        elif left >= 1:
            assert buckets.take(name, 7.0, tokens) == 0.0
            expected[name] = left - tokens, clock.now
        else:
            assert buckets.take(name, 7.0, tokens) == pytest.approx((1 - left) / 7.0)


def test_full_buckets_are_forgotten_and_overdrawn_ones_are_not(clock: Clock) -> None:
    buckets = Buckets(clock)
    buckets.charge("debtor", 1.0, 1_000.0)
    for number in range(5_000):
        clock.now += 0.1
        assert buckets.take(f"c-{number}", 1.0, 1.0) == 0.0
    assert buckets.take("debtor", 1.0, 1.0) > 0, "500 s have passed, 990 are owed"
    clock.now += 600
    for number in range(5_000):
        clock.now += 0.1
        assert buckets.take(f"d-{number}", 1.0, 1.0) == 0.0
    assert len(buckets) <= 1.1 * 10 * BURST_S + 2


def test_work_waits_while_the_principal_or_the_customer_has_nothing_left(clock: Clock) -> None:
    rate_limits = limits(clock)
    assert rate_limits.wait_s(WEB, "c-1") == rate_limits.wait_s(DESK, "") == 0
    rate_limits.charge(WEB, "c-1", 0.3)  # 200 more than the customer has
    rate_limits.charge(DESK, "", 0.3)  # 100 more than staff has
    assert rate_limits.wait_s(WEB, "c-1") == pytest.approx(20.1)
    assert rate_limits.wait_s(WEB, "c-2") == rate_limits.wait_s(WEB, "") == 0
    assert rate_limits.wait_s(DESK, "") == pytest.approx(5.05)
    clock.now += 20.2
    assert rate_limits.wait_s(WEB, "c-1") == rate_limits.wait_s(DESK, "") == 0
    assert taken(lambda: rate_limits.take(DESK)) > 0, "nothing was taken by asking"
