/** What waits for a person, oldest first. `listOrders` has the newest order first, so all of its pages are read. */

import { read } from "./api.js";
import { empty, h, own, show, showAgain } from "./dom.js";
import { count, money, since } from "./format.js";
import { liveMark, repeat } from "./live.js";
import { pill } from "./order_table.js";
import { failure } from "./toasts.js";
import { capital, said } from "./words.js";

const PAGE = 100;
const MOST_PAGES = 50;
const LIVE_MS = 10_000;

export function attentionScreen(query, signal) {
  const mark = h("span", { class: "live" });
  const content = h("div", null, h("p", { class: "muted" }, "Reading…"));
  const refresh = async () => showAgain([content, listed(await flags(signal, content))]);
  repeat(refresh, { every: LIVE_MS, signal, state: liveMark(mark), failed: (error) => show(content, failure(error)) });
  const head = h("div", { class: "screen-head" }, h("h1", null, "Attention"), h("div", { class: "end" }, mark));
  const text = "Orders with a flag, the one that has waited longest first. Open one to see what happened and to resolve it.";
  return h("div", { class: "screen" }, head, h("p", { class: "muted" }, text), content);
}

/** [{order, flag}] of all flagged orders, the oldest flag first, and whether that is all. */
async function flags(signal) {
  const rows = [];
  let cursor = null;
  let pages = 0;
  do {
    const { body } = await read("orders", { query: { attention: "true", limit: PAGE, cursor }, signal });
    for (const order of body.data) for (const flag of order.attention) rows.push({ order, flag });
    cursor = body.next_cursor;
    pages += 1;
  } while (cursor && pages < MOST_PAGES);
  rows.sort((one, other) => one.flag.since.localeCompare(other.flag.since));
  return { rows, all: !cursor };
}

function linkTo(order, flag) {
  const name = `${order.order_id} ${flag.code} ${flag.obligation_key}`;
  return h("a", { class: "row-link mono", "data-keep": name, href: `#/orders/${order.order_id}` }, order.number);
}

function listed({ rows, all }) {
  if (!rows.length) return empty("Nothing waits for you", "The ledger raises a flag here when only a person can decide.");
  const heads = ["Waiting", "Order", "What", "Status", "Amount", "Customer"];
  const body = rows.map(({ order, flag }) =>
    h(
      "tr",
      { class: "linked" },
      h("td", null, since(flag.since)),
      h("td", null, linkTo(order, flag)),
      h("td", null, capital(said(flag.code))),
      h("td", null, pill(order.status)),
      h("td", { class: "right money" }, money(order.total_minor, order.currency)),
      h("td", { class: "small" }, own(order.customer_id)),
    ),
  );
  const head = h("tr", null, heads.map((text) => h("th", { scope: "col", class: text === "Amount" ? "right" : "" }, text)));
  const caption = h("caption", { class: "hidden" }, "Flags, oldest first");
  return [
    !all && h("div", { class: "message warn" }, `Only the ${count(MOST_PAGES * PAGE)} newest orders with a flag are compared.`),
    h("div", { class: "table-box" }, h("table", { class: "cards" }, caption, h("thead", null, head), h("tbody", null, body))),
    h("p", { class: "muted small" }, `${count(rows.length)} ${rows.length === 1 ? "flag" : "flags"}`),
  ];
}
