/** Orders as rows of a table, cards on a phone. */

import { h, own } from "./dom.js";
import { money, time } from "./format.js";
import { capital, said, tone } from "./words.js";

/** A status, or a state, as a pill. */
export function pill(word, of = tone(word)) {
  return h("span", { class: `pill ${of}` }, capital(said(word)));
}

/** What of an order needs a person, as pills; nothing if nothing does. */
export function flagPills(order) {
  const flags = order.attention.length ? [h("span", { class: "pill bad" }, "Needs attention")] : [];
  if (order.frozen) flags.push(h("span", { class: "pill bad" }, "Frozen"));
  return flags;
}

export const HEADINGS = [
  ["Order", ""],
  ["Amount", "right"],
  ["Status", ""],
  ["Payment", ""],
  ["Customer", ""],
  ["Reference", ""],
  ["Placed", "right"],
];

/** The row of an order. `fresh`: it was not there a moment ago. */
export function orderRow(order, fresh = false) {
  const link = h("a", { class: "row-link mono", href: `#/orders/${order.order_id}` }, order.number);
  return h(
    "tr",
    { class: `linked ${fresh ? "fresh" : ""}`, "data-order": order.order_id },
    h("td", null, link),
    h("td", { class: "right money" }, money(order.total_minor, order.currency)),
    h("td", null, pill(order.status), " ", flagPills(order)),
    h("td", { class: "muted small" }, capital(said(order.axes.payment))),
    h("td", { class: "small" }, own(order.customer_id)),
    h("td", { class: "small" }, order.reference ? own(order.reference) : ""),
    h("td", { class: "right small muted" }, time(order.placed_at)),
  );
}

/** The table around rows; `body` is its `tbody`. */
export function orderTable(caption, body) {
  const heads = HEADINGS.map(([text, kind]) => h("th", { class: kind, scope: "col" }, text));
  return h(
    "div",
    { class: "table-box" },
    h("table", { class: "cards" }, h("caption", { class: "hidden" }, caption), h("thead", null, h("tr", null, heads)), body),
  );
}
