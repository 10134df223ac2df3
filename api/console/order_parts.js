/** The parts of the screen of an order that only show: lines and money, parcels, contact, notes, what it owes, details. */

import { addNoteButton, deleteNoteButton } from "./actions.js";
import { h, own } from "./dom.js";
import { money, since, span, time } from "./format.js";
import { pill } from "./order_table.js";
import { capital, said } from "./words.js";

function part(title, ...content) {
  return h("section", { class: "part" }, h("h2", null, title), content);
}

function facts(rows) {
  const shown = rows.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h("dl", { class: "facts" }, shown.map(([name, value]) => [h("dt", null, name), h("dd", null, value)]));
}

/** Articles, adjustments and the total. What was cancelled is part of the prices as ordered, and taken off the total. */
export function linesPart(order) {
  const lines = order.lines.map((line) => {
    const gone = ["cancelled", "shipped", "refunded"].filter((name) => line[`${name}_quantity`]);
    const states = gone.map((name) => `${line[`${name}_quantity`]} ${name}`).join(", ");
    return h(
      "tr",
      null,
      h(
        "td",
        null,
        h("div", null, own(line.name)),
        h("div", { class: "small muted" }, `${line.service} · `, own(line.sku), states && ` · ${states}`),
      ),
      h("td", { class: "right number" }, `${line.quantity} ×`),
      h("td", { class: "right money" }, money(line.unit_price_minor, order.currency)),
      h("td", { class: "right money" }, money(line.quantity * line.unit_price_minor, order.currency)),
    );
  });
  const ordered =
    order.lines.reduce((sum, line) => sum + line.quantity * line.unit_price_minor, 0) +
    order.adjustments.reduce((sum, one) => sum + one.amount_minor, 0);
  const sums = order.adjustments.map((one) => [[capital(one.kind), ": ", own(one.label)], one.amount_minor]);
  if (ordered !== order.total_minor) sums.push(["Cancelled", order.total_minor - ordered]);
  const row = (name, minor, kind) =>
    h("tr", { class: kind }, h("td", { colspan: 3, class: "right" }, name), h("td", { class: "right money" }, money(minor, order.currency)));
  const heads = ["Article", "Quantity", "Price", "Amount"];
  const head = h("tr", null, heads.map((text, index) => h("th", { scope: "col", class: index ? "right" : "" }, text)));
  const foot = h("tbody", { class: "sums" }, sums.map(([name, minor]) => row(name, minor, "")), row("Total", order.total_minor, "total"));
  const caption = h("caption", { class: "hidden" }, "Articles of the order");
  return part("Items", h("div", { class: "table-box", tabindex: "0", "data-keep": "items" }, h("table", null, caption, h("thead", null, head), h("tbody", null, lines), foot)));
}

/** Refunds as they are now; nothing if there are none. */
export function refundsPart(refunds, order) {
  if (!refunds.data.length && !refunds.owed_minor) return null;
  const rows = refunds.data.map((refund) =>
    h(
      "li",
      { class: "row" },
      h("span", { class: "money" }, money(refund.amount_minor, order.currency)),
      pill(refund.state),
      refund.code && h("span", { class: "small" }, said(refund.code)),
      h("span", { class: "small muted" }, refund.number ? `Refund ${refund.number}` : "Made at the provider", ", ", time(refund.updated_at)),
    ),
  );
  const owed = refunds.owed_minor && h("p", { class: "small" }, `Still to be refunded: ${money(refunds.owed_minor, order.currency)}`);
  return part("Refunds", h("ul", { class: "parcels" }, rows), owed || null);
}

/** What the order owes the outside world, and since when. */
export function owesPart(outlook) {
  if (!outlook.owes.length) return part("Owes", h("p", { class: "muted" }, "Nothing. Whatever comes next is up to a person."));
  const rows = outlook.owes.map((owed) => {
    const wait = owed.due_at === null ? 0 : Date.parse(owed.due_at) - Date.now();
    const due = wait > 0 ? h("span", { class: "pill" }, `in ${span(wait)}`) : h("span", { class: "pill warn" }, "due");
    return h("li", { class: "row" }, h("span", null, capital(said(owed.kind))), due, h("span", { class: "small muted" }, "for ", since(owed.since)));
  });
  return part("Owes", h("ul", { class: "owes" }, rows));
}

export function parcelsPart(order) {
  if (!order.shipments.length) return part("Parcels", h("p", { class: "muted" }, "None yet."));
  const names = new Map(order.lines.map((line) => [`${line.service} ${line.sku}`, line.name]));
  const rows = order.shipments.map((parcel) =>
    h(
      "li",
      null,
      h(
        "div",
        { class: "row" },
        h("strong", null, `Parcel ${parcel.number}`),
        parcel.delivered_at ? pill("delivered") : pill("shipped"),
        h("span", { class: "small muted" }, time(parcel.delivered_at ?? parcel.shipped_at)),
      ),
      (parcel.carrier || parcel.tracking) && h("div", { class: "small" }, own([parcel.carrier, parcel.tracking].filter(Boolean).join(" · "))),
      h("ul", null, parcel.lines.map((line) => h("li", { class: "small muted" }, `${line.quantity} × `, own(names.get(`${line.service} ${line.sku}`) ?? line.sku)))),
    ),
  );
  return part("Parcels", h("ul", { class: "parcels" }, rows));
}

/** The contact, if the role may see it and it was not erased. */
export function contactPart(order) {
  const contact = order.contact;
  if (!contact) return part("Contact", h("p", { class: "muted" }, "Erased, or not for your role."));
  return part(
    "Contact",
    facts([
      ["Name", own(contact.name)],
      ["E-mail", own(contact.email)],
      ["Phone", contact.phone && own(contact.phone)],
      ["Ship to", address(contact.shipping_address)],
      ["Bill to", contact.billing_address && address(contact.billing_address)],
      ["To the carrier", contact.delivery_note && own(contact.delivery_note)],
      ["Language", contact.locale],
    ]),
  );
}

function address(of) {
  const lines = [of.line1, of.line2, [of.postcode, of.city].filter(Boolean).join(" "), of.region, of.country].filter(Boolean);
  return h("address", null, lines.map((line) => h("div", null, own(line))));
}

export function notesPart(screen) {
  const rows = screen.notes.data.map((note) =>
    h(
      "li",
      null,
      h("div", { class: "text", dir: "auto" }, note.text),
      h("div", { class: "row small muted" }, h("span", null, note.by.split(":").at(-1), ", ", time(note.at)), deleteNoteButton(screen, note)),
    ),
  );
  const none = h("p", { class: "muted" }, "None. Notes are erased with the contact.");
  return part("Notes", rows.length ? h("ul", { class: "notes" }, rows) : none, addNoteButton(screen));
}

export function detailsPart(order) {
  const entries = Object.entries(order.metadata).map(([name, text]) => [h("code", null, name), own(text)]);
  return part(
    "Details",
    facts([
      ["Order", h("code", { class: "small" }, order.order_id)],
      ["Reference", order.reference && own(order.reference)],
      ["Payment", said(order.axes.payment)],
      ["Stock", said(order.axes.stock)],
      ["Fulfilment", said(order.axes.fulfilment)],
      ["Cancelled", order.cancel_reason && said(order.cancel_reason)],
      ["Pay until", order.status === "pending" && time(order.expires_at)],
      ["Updated", time(order.updated_at)],
      ...entries,
    ].filter(([, value]) => value)),
  );
}
