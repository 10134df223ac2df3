/** The node that answers: health, partitions, commands, workers. From `/ready` and `/metrics`, which any role may read. */

import { read } from "./api.js";
import { h, show, showAgain } from "./dom.js";
import { count, span } from "./format.js";
import { liveMark, repeat } from "./live.js";
import { by, samples, single } from "./metrics_text.js";
import { failure } from "./toasts.js";
import { capital, said } from "./words.js";

const LIVE_MS = 5_000;
const SKEW_WARN_S = 5;

export function systemScreen(query, signal) {
  const mark = h("span", { class: "live" });
  const content = h("div", { class: "stack" }, h("p", { class: "muted" }, "Reading…"));
  const refresh = async () => {
    const [ready, metrics] = await Promise.all([read("ready", { signal }), read("metrics", { accept: "text/plain", signal })]);
    showAgain([content, shown(ready.body, samples(metrics.body))]);
  };
  repeat(refresh, { every: LIVE_MS, signal, state: liveMark(mark), failed: (error) => show(content, failure(error)) });
  const head = h("div", { class: "screen-head" }, h("h1", null, "System"), h("div", { class: "end" }, mark));
  return h("div", { class: "screen" }, head, content);
}

function shown(ready, m) {
  const seconds = (value) => (value === null ? "–" : value === 0 ? "0" : span(value * 1000));
  const number = (name) => {
    const value = single(m, name);
    return value === null ? "–" : count(value);
  };
  const frozen = single(m, "ledger_orders_frozen") ?? 0;
  const health = ready.status === "ready" ? (ready.stale ? "warn" : "good") : "bad";
  const word = ready.status === "ready" ? (ready.stale ? "Ready, but reads may be old" : "Ready") : "Not ready";
  return [
    h(
      "section",
      { class: "part" },
      h("h2", null, "This node"),
      h("div", { class: "row" }, h("span", { class: `pill ${health}` }, word), ready.reason && h("span", null, said(ready.reason))),
      h("dl", { class: "facts" }, Object.entries(ready.checks).map(([name, text]) => [h("dt", null, capital(said(name))), h("dd", null, text)])),
    ),
    tiles([
      ["Records behind", number("ledger_fold_behind")],
      ["Reads may be old by", seconds(single(m, "ledger_fold_staleness_seconds"))],
      ["Commands waiting", number("ledger_commands_waiting")],
      ["Commands undecided", number("ledger_commands_undecided")],
      ["Frozen orders", count(frozen), frozen > 0],
      ["Held back by a transaction", seconds(single(m, "ledger_log_held_back_seconds"))],
      ["Open connections", number("ledger_http_connections")],
      ["Audit records waiting", number("ledger_audit_waiting")],
    ]),
    partitions(m),
    work(m),
    workers(m),
    expiries(m),
    h(
      "p",
      { class: "muted small" },
      "Which process holds which writer, and when the log was last verified or the read models were rebuilt, is not part of the HTTP API. ",
      h("code", null, "order-ledger writers"),
      ", ",
      h("code", null, "verify"),
      " and ",
      h("code", null, "rebuild"),
      " show it.",
    ),
  ];
}

function tiles(rows) {
  const one = ([title, text, isBad]) =>
    h("div", { class: "tile" }, h("dt", null, title), h("dd", null, text, isBad && [" ", h("span", { class: "pill bad" }, "Act")]));
  return h("dl", { class: "tiles" }, rows.map(one));
}

function table(title, heads, rows) {
  if (!rows.length) return null;
  const head = h("tr", null, heads.map((text, index) => h("th", { scope: "col", class: index ? "right" : "" }, text)));
  const cells = ([first, ...others]) =>
    h("tr", null, h("th", { scope: "row" }, first), others.map((cell) => h("td", { class: "right number" }, cell)));
  return h(
    "section",
    { class: "part" },
    h("h2", null, title),
    h(
      "div",
      { class: "table-box", tabindex: "0", "data-keep": title },
      h("table", null, h("caption", { class: "hidden" }, title), h("thead", null, head), h("tbody", null, rows.map(cells))),
    ),
  );
}

function partitions(m) {
  const positions = by(m, "ledger_fold_position", "partition");
  const own = by(m, "ledger_clock_skew_seconds", "partition");
  const others = by(m, "ledger_commands_clock_skew_seconds", "partition");
  const skew = (value) => {
    if (value === undefined) return "–";
    const text = `${value.toFixed(3)} s`;
    return Math.abs(value) > SKEW_WARN_S ? h("span", { class: "pill warn" }, text) : text;
  };
  const rows = [...positions].map(([partition, position]) => [
    partition,
    count(position),
    skew(own.get(partition)),
    skew(others.get(partition)),
  ]);
  const heads = ["Partition", "Folded to", "Kafka's clock ahead", "Seen by commands"];
  return table("Partitions", heads, rows);
}

function work(m) {
  const rows = [...by(m, "ledger_commands_work", "kind")].map(([kind, value]) => [capital(kind), count(value)]);
  return table("Done by commands since its start", ["Kind", "Count"], rows);
}

function workers(m) {
  const restarts = by(m, "ledger_worker_restarts_total", "worker");
  const rows = [...by(m, "ledger_workers_running", "worker")].map(([name, value]) => [name, count(value), count(restarts.get(name) ?? 0)]);
  return table("Workers", ["Worker", "Running", "Restarts"], rows);
}

function expiries(m) {
  const rows = [...by(m, "ledger_token_expires_in_seconds", "role")].map(([role, seconds]) => [
    capital(role),
    seconds > 0 ? span(seconds * 1000) : h("span", { class: "pill bad" }, "Expired"),
  ]);
  return table("First token of a role to expire", ["Role", "In"], rows);
}
