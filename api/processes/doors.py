"""Builds the doors to the external services that the settings name (`api.processes.outside`).

Each door imports its library when it is built: most processes need one or two of them, and each costs 0.1 to 0.3 s of CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.processes.exposure import Plaintext, refuse_plaintext
from api.processes.outside import addresses, check_outside, webhook_secrets
from api.settings import Settings
from commands.notifier.message_port import MessageComposer, MessageDoor
from commands.reconciler.payment_port import PaymentProvider
from commands.reconciler.performing import Ports
from commands.reconciler.stock_port import StockService
from commands.sandbox import SECRET_KEY
from ledger.bounds import SERVICES
from ledger.errors import ConfigError

if TYPE_CHECKING:
    from api.callers.oidc import Oidc
    from commands.notifier.composing import Shop


def build_payments(settings: Settings) -> PaymentProvider | None:
    """The payment provider, not connected; None without external services. Raises `ConfigError`."""
    if not check_outside(settings):
        return None
    from commands.reconciler.stripe_gateway import StripeGateway

    key = settings.payment_gateway_secret_key
    return StripeGateway(
        key.get_secret_value() if key else SECRET_KEY,
        webhook_secrets=webhook_secrets(settings),
        account=settings.payment_gateway_account,
        api_base=None if key else settings.sandbox_url,
        timeout_ms=settings.outside_timeout_ms,
    )


def build_oidc(settings: Settings) -> Oidc | None:
    """The issuer whose tokens `serve` accepts, with the keys of the last run; None without one. Raises `ConfigError`."""
    from api.callers.issuer_rules import rules_of

    rules = rules_of(settings)
    if rules is None:
        return None
    from api.callers.issuer import Issuer
    from api.callers.oidc import Oidc
    from api.callers.signed_tokens import TokenVerifier

    verifier = TokenVerifier(rules)
    return Oidc(rules, Issuer(rules, verifier, settings.state_dir / "oidc.json"), verifier)


def build_ports(settings: Settings) -> Ports:
    """All ports, not connected. Call it on the event loop that uses them. Raises `ConfigError` if none are set."""
    payments = build_payments(settings)
    if payments is None:
        raise ConfigError("neither a payment provider nor stock services are set")
    return Ports(payments, {name: _stock(settings, name) for name in SERVICES})


def _stock(settings: Settings, name: str) -> StockService:
    url, target = addresses(settings, name)
    if target:
        from commands.reconciler.stock_grpc import GrpcStock

        return GrpcStock(name, target, settings.outside_timeout_ms)
    from commands.reconciler.stock_http import HttpStock

    return HttpStock(name, url or f"{settings.sandbox_url}/stock/{name}", settings.outside_timeout_ms)


def build_composer(settings: Settings) -> MessageComposer:
    """Composes messages to customers in the name of the shop. Raises `ConfigError`."""
    from commands.notifier.composing import Composer

    return Composer(shop_of(settings))


def shop_of(settings: Settings) -> Shop:
    """Name, language, time zone and templates of the shop. Raises `ConfigError`."""
    from commands.notifier.composing import Shop
    from commands.notifier.email_door import sender_of

    sender = sender_of(settings.notify_from)
    return Shop(sender.display_name or sender.domain, settings.notify_language, settings.time_zone, settings.notify_templates_dir)


def build_message_doors(settings: Settings) -> dict[str, MessageDoor]:
    """Doors for messages to customers, by channel. Raises `ConfigError`."""
    from commands.notifier.email_door import EmlDoor, SmtpDoor

    url, sms = settings.notify_email_url, settings.notify_sms_url
    doors: list[MessageDoor] = []
    if url is not None:
        doors.append(SmtpDoor(url.get_secret_value(), settings.notify_from))
    else:
        doors.append(EmlDoor(settings.outbox_dir, settings.notify_from))
    if sms is not None:
        from commands.notifier.sms_door import SmsDoor

        door = SmsDoor(sms.get_secret_value())
        if not door.is_encrypted:
            refuse_plaintext(
                settings, [Plaintext("sms", "NOTIFY_SMS_URL", "is a URL form without TLS", "the service's form with TLS")]
            )
        doors.append(door)
    return {door.channel: door for door in doors}
