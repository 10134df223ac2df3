"""The daily sweep: reports refunds and disputes that no webhook reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

import structlog

from commands.reconciler.payment_port import PaymentProvider, ProviderUnavailable, Sighting
from ledger.faults import in_short

log = structlog.get_logger(__name__)


async def sweep(
    payments: PaymentProvider, since_ms: int, report: Callable[[Sighting], Awaitable[int | None]], done: Counter[str]
) -> None:
    """Report what happened since `since_ms`, and count it in `done`. A failure ends this sweep, not the next.

    `report`: the number of new facts; None if the payment belongs to no order of this ledger.
    """
    fact_count = unknown = 0
    try:
        async for sighting in payments.recent(since_ms):
            try:
                facts = await report(sighting)
            except Exception as exc:
                done["sweep raised"] += 1
                log.error("payment could not be reported", provider_ref=sighting.provider_ref, why=in_short(exc))
                continue
            fact_count += facts or 0
            unknown += facts is None
    except ProviderUnavailable as exc:
        log.warning("sweep ended early", why=str(exc))
    except Exception as exc:
        done["sweep raised"] += 1
        log.error("sweep ended early", why=in_short(exc))
    done["sweep found"] += fact_count
    done["sweep unknown"] += unknown
    log.info("sweep", facts=fact_count, unknown=unknown)
