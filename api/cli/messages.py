"""The verbs `messages preview` and `messages check`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec.structs import replace
from rich.table import Table

from api.cli.history import api_client, read
from api.cli.terminal import Screen, Terminal, write_json, write_text
from api.processes.doors import shop_of
from api.settings import Settings
from commands.notifier.checking import check
from commands.notifier.composing import Composed, Composer
from commands.notifier.languages import lookups
from commands.notifier.notices import EMAIL, SMS
from commands.notifier.samples import Sample, sample
from commands.notifier.template_files import TemplateFailed
from ledger.contacts import Address, OrderContact
from ledger.errors import ConfigError
from ledger.events import Adjustment, Cancel, Line, OrderEvent, Refund, Shipment, Units
from ledger.money import total_of
from ledger.order import LineCount, Order
from ledger.rfc3339 import parse_ms

NO_DIGEST = bytes(32)  # of a contact: the API does not show it


@dataclass(frozen=True, slots=True)
class Preview:
    """Which message: its notice, the language if not the customer's, and `text`, `html` or `sms`."""

    notice: str
    language: str | None = None
    form: str = "text"


def run_preview(settings: Settings, source: tuple[str, str, str] | None, preview: Preview, terminal: Terminal) -> int:
    """Print one message. `source`: order id, URL and token of the API; None for the sample. Returns 1 if it cannot be composed.

    Raises `ApiError`, `ConfigError`.
    """
    if preview.language is not None and not lookups(preview.language):
        raise ConfigError("--language takes a language tag such as de-AT")
    of = sample(preview.notice) if source is None else _order_of_api(*source, preview.notice, terminal.err)
    if of is None:
        return 1
    contact = of.contact if preview.language is None else replace(of.contact, locale=preview.language)
    composer = Composer(shop_of(settings))
    channel = SMS if preview.form == "sms" else EMAIL
    try:
        composed = composer.compose(composer.files, of.event, of.order, preview.notice, contact, channel)
    except TemplateFailed as exc:
        terminal.err.print(f"{exc}: {exc.detail}. The message would be composed from the shipped templates.", style="red")
        return 1
    if terminal.as_json:
        write_json(msgspec.to_builtins(composed))
        return 0
    terminal.err.print(f"language {composed.language}, from {', '.join(composed.templates)}", style="dim")
    return _show(composed, preview.form, terminal.err)


def _show(composed: Composed, form: str, err: Screen) -> int:
    if form == "html":
        if composed.html is None:
            err.print("this message has no HTML part", style="red")
            return 1
        write_text([composed.html.rstrip("\n")])
        return 0
    head = [f"Subject: {composed.subject}", ""] if composed.subject else []
    write_text([*head, composed.text.rstrip("\n")])
    return 0


def run_check(settings: Settings, terminal: Terminal) -> int:
    """Check every template. Returns 1 if any has a fault. Raises `ConfigError`."""
    checked = check(shop_of(settings))
    if terminal.as_json:
        write_json({"ok": not checked.faults, **msgspec.to_builtins(checked)})
        return 1 if checked.faults else 0
    if checked.faults:
        table = Table("template", "line", "fault", "what is wrong")
        for fault in checked.faults:
            table.add_row(fault.template, "" if fault.line is None else str(fault.line), fault.kind, fault.detail)
        terminal.out.print(table)
    summary = f"{checked.templates} templates in {', '.join(checked.languages)}, rendered {checked.rendered} times"
    terminal.out.print(f"{summary}: {len(checked.faults)} faults", style="red" if checked.faults else "green")
    return 1 if checked.faults else 0


# ---- an order of the API as the notifier sees it --------------------------------------------------------------------


def _order_of_api(order_id: str, url: str, token: str, notice: str, err: Screen) -> Sample | None:
    """The order as of now, with an event that has its amounts; None if there is no such order."""
    with api_client(url, token) as client:
        shown = read(client, f"/orders/{quote(order_id, safe='')}", {}, "order_id")
    if shown is None:
        err.print(f"no order {' '.join(order_id.split())}", style="red")
        return None
    example = sample(notice)
    if shown.get("contact") is None:
        err.print("the contact is erased, or this token may not see it: the sample's is shown", style="yellow")
        contact = example.contact
    else:
        contact = _contact(shown["contact"], shown["customer_id"])
    order = _order(shown)
    return Sample(notice, _event(shown, order, example.event), order, contact)


def _order(shown: dict[str, Any]) -> Order:
    lines = tuple(msgspec.convert(shown["lines"], list[Line]))
    adjustments = tuple(msgspec.convert(shown["adjustments"], list[Adjustment]))
    return Order(
        order_id=shown["order_id"],
        version=shown["version"],
        customer_id=shown["customer_id"],
        currency=shown["currency"],
        total_minor=shown["total_minor"],
        placed_minor=total_of(lines, adjustments),
        placed_at=parse_ms(shown["placed_at"]) or 0,
        updated_at=parse_ms(shown["updated_at"]) or 0,
        expires_at=parse_ms(shown["expires_at"]) or 0,
        lines=lines,
        counts=tuple(LineCount(cancelled=line.get("cancelled_quantity", 0)) for line in shown["lines"]),
        adjustments=adjustments,
        reference=shown.get("reference"),
        contact_digest=NO_DIGEST,
        number=shown["number"],
    )


def _event(shown: dict[str, Any], order: Order, example: OrderEvent) -> OrderEvent:
    """The example's event, about this order. What the order does not have yet is the example's, such as a parcel."""
    changes: dict[str, Any] = {}
    if example.shipment and shown["shipments"]:
        last = shown["shipments"][-1]
        changes["shipment"] = Shipment(last["carrier"], last["tracking"], _units(last["lines"]), last["number"])
    if example.cancel and shown["cancel_reason"]:
        changes["cancel"] = Cancel(shown["cancel_reason"], "")
    if example.refund:
        changes["refund"] = Refund(1, None, shown["refunded_minor"])
    if example.cut:
        cancelled = [line | {"quantity": line.get("cancelled_quantity", 0)} for line in shown["lines"]]
        some = _units(line for line in cancelled if line["quantity"]) or _units([shown["lines"][0] | {"quantity": 1}])
        changes["cut"] = replace(example.cut, lines=some, amount_minor=order.placed_minor - order.total_minor)
    return replace(
        example,
        order_id=order.order_id,
        version=order.version,
        occurred_at=order.updated_at,
        customer_id=order.customer_id,
        currency=order.currency,
        total_minor=order.total_minor,
        captured_minor=shown["captured_minor"],
        refunded_minor=shown["refunded_minor"],
        placed=None,
        **changes,
    )


def _units(shown: Iterable[dict[str, Any]]) -> tuple[Units, ...]:
    return tuple(Units(line["service"], line["sku"], line["quantity"]) for line in shown)


def _contact(shown: dict[str, Any], customer_id: str) -> OrderContact:
    return OrderContact(
        customer_id=customer_id,
        name=shown["name"],
        email=shown["email"],
        shipping_address=msgspec.convert(shown["shipping_address"], Address),
        phone=shown.get("phone"),
        locale=shown.get("locale"),
    )
