"""The client secrets with which customers' browsers pay: read from the provider on request, and cached for at most a minute.

Never printed, stored or logged.
"""

from __future__ import annotations

import time
from collections import OrderedDict

from commands.reconciler.payment_port import PaymentProvider

KEPT_S = 60.0
MAX_KEPT = 10_000


class ClientSecrets:
    """Client secrets by provider reference."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[float, str | None]] = OrderedDict()

    async def of(self, payments: PaymentProvider, provider_ref: str) -> str | None:
        """The secret, from memory or fetched now. Raises `ProviderUnavailable`; `KeyError` if there is no such payment."""
        now = time.monotonic()
        while self._kept and (now - next(iter(self._kept.values()))[0] > KEPT_S or len(self._kept) > MAX_KEPT):
            self._kept.popitem(last=False)
        if (kept := self._kept.get(provider_ref)) is not None:
            return kept[1]
        view = await payments.view(provider_ref)
        self._kept[provider_ref] = (now, view.client_secret)
        return view.client_secret
