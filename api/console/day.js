/** Orders and money per day and currency, and how many orders have each status. Days are those of UTC, as the report has them. */

import { addressOf, read } from "./api.js";
import { bar, dailyBars } from "./charts.js";
import { empty, h, show } from "./dom.js";
import { count, day, dayOf, digits, FIRST_DAY, money } from "./format.js";
import { by, samples } from "./metrics_text.js";
import { pill } from "./order_table.js";
import { failure } from "./toasts.js";
import { STATUSES } from "./words.js";

const DAY_MS = 86_400_000;
const DAYS = 14;
const MOST_DAYS = 366;
const SUMS = ["placed", "placed_minor", "cancelled", "shipped", "delivered", "captured_minor", "refunded_minor"];

export function dayScreen(query, signal) {
  const today = dayOf(new Date());
  const to = knownDay(query.get("to")) ?? today;
  const from = knownDay(query.get("from")) ?? dayOf(new Date(Date.parse(to) - (DAYS - 1) * DAY_MS));
  const content = h("div", { class: "stack" }, h("p", { class: "muted" }, "Reading…"));
  const chosen = (name) => ({ target }) => {
    if (target.validity.valid) location.hash = addressOf("#/day", { from, to, [name]: target.value });
  };
  const limits = { min: FIRST_DAY, max: today }; // also of what is half typed: the year 0002
  const field = (text, name, value) =>
    h("label", { class: "field" }, h("span", null, text), h("input", { type: "date", ...limits, "data-keep": name, value, onchange: chosen(name) }));
  const head = h(
    "div",
    { class: "screen-head" },
    h("h1", null, "Day"),
    h("div", { class: "end row" }, field("From", "from", from), field("To", "to", to)),
  );
  readAll(from, to, content, signal);
  return h("div", { class: "screen" }, head, content);
}

/** A day as the API writes it; null for anything else, which an address typed by hand may contain. */
function knownDay(text) {
  const at = /^\d{4}-\d\d-\d\d$/.test(text ?? "") ? Date.parse(text) : NaN;
  return at >= Date.parse(FIRST_DAY) && dayOf(new Date(at)) === text ? text : null;
}

async function readAll(from, to, content, signal) {
  try {
    const [report, metrics] = await Promise.all([
      read("reports/daily", { query: { from, to }, signal }),
      read("metrics", { accept: "text/plain", signal }),
    ]);
    const currencies = [...new Set(report.body.data.map((row) => row.currency))].sort();
    const sections = currencies.map((currency) => {
      const rows = report.body.data.filter((row) => row.currency === currency);
      return currencySection(currency, everyDay(rows, from, to));
    });
    const none = empty("No orders on these days", "Choose other days above.");
    show(content, statuses(by(samples(metrics.body), "ledger_orders", "status")), sections.length ? sections : none);
  } catch (error) {
    if (!signal.aborted) show(content, failure(error, () => readAll(from, to, content, signal)));
  }
}

/** A row for each day, also for those without events, which the report leaves out. */
export function everyDay(rows, from, to) {
  const known = new Map(rows.map((row) => [row.day, row]));
  const none = Object.fromEntries(SUMS.map((name) => [name, 0]));
  const days = [];
  for (let at = Date.parse(from); at <= Date.parse(to) && days.length < MOST_DAYS; at += DAY_MS) {
    const text = dayOf(new Date(at));
    days.push(known.get(text) ?? { ...none, day: text });
  }
  return days;
}

function statuses(counts) {
  const most = Math.max(1, ...counts.values());
  const rows = STATUSES.map((status) => {
    const number = counts.get(status) ?? 0;
    const link = h("a", { href: `#/orders?status=${status}`, class: "number" }, count(number));
    return [pill(status), bar(number, most), h("span", { class: "right" }, link)];
  });
  return h("section", { class: "part" }, h("h2", null, "Orders by status, now"), h("div", { class: "status-bars" }, rows));
}

function currencySection(currency, rows) {
  const sum = (name) => rows.reduce((total, row) => total + row[name], 0);
  const tile = (title, text) => h("div", { class: "tile" }, h("dt", null, title), h("dd", null, text));
  const chart = (title, name, kind) => {
    const isMoney = name.endsWith("_minor");
    const scale = isMoney ? 10 ** digits(currency) : 1;
    const values = rows.map((row) => ({ day: row.day, value: row[name] / scale }));
    return dailyBars(title, values, (value) => (isMoney ? money(Math.round(value * scale), currency) : count(value)), kind);
  };
  return h(
    "section",
    { class: "part" },
    h("h2", null, currency),
    h(
      "dl",
      { class: "tiles" },
      tile("Orders placed", count(sum("placed"))),
      tile("Placed", money(sum("placed_minor"), currency)),
      tile("Captured", money(sum("captured_minor"), currency)),
      tile("Refunded", money(sum("refunded_minor"), currency)),
    ),
    h(
      "div",
      { class: "charts" },
      chart(`Placed, ${currency}`, "placed_minor", ""),
      chart(`Captured, ${currency}`, "captured_minor", "second"),
      chart(`Refunded, ${currency}`, "refunded_minor", "third"),
      chart("Orders placed", "placed", ""),
    ),
    figures(currency, rows),
  );
}

function figures(currency, rows) {
  const heads = ["Day", "Placed", "Cancelled", "Shipped", "Delivered", "Value placed", "Captured", "Refunded"];
  const cells = (row) => [
    ...["placed", "cancelled", "shipped", "delivered"].map((name) => count(row[name])),
    ...["placed_minor", "captured_minor", "refunded_minor"].map((name) => money(row[name], currency)),
  ];
  const body = rows
    .filter((row) => SUMS.some((name) => row[name]))
    .map((row) =>
      h("tr", null, h("th", { scope: "row" }, day(row.day)), cells(row).map((text) => h("td", { class: "right number" }, text))),
    );
  const head = h("tr", null, heads.map((text, index) => h("th", { scope: "col", class: index ? "right" : "" }, text)));
  const table = h("table", null, h("caption", { class: "hidden" }, `Days in ${currency}`), h("thead", null, head), h("tbody", null, body));
  return h("details", null, h("summary", null, "Figures"), h("div", { class: "table-box", tabindex: "0" }, table));
}
