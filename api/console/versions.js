/** The slider through the versions of an order, with what changed at each. */

import { read } from "./api.js";
import { announce, h, own, show } from "./dom.js";
import { differences } from "./differences.js";
import { money, time } from "./format.js";
import { failure } from "./toasts.js";
import { eventWords, memberWords, said } from "./words.js";

const TIMES = /^\d{4}-\d\d-\d\dT.*Z$/;

export class VersionSlider {
  constructor(screen) {
    this.screen = screen;
    this.orders = new Map(); // version -> order
    this.at = null; // null: as it is now
    const moved = () => this.go(Number(this.range.value));
    this.range = h("input", { type: "range", min: 1, "aria-label": "Version", "data-keep": "version", oninput: moved });
    this.said = h("span", { class: "small" });
    this.changes = h("div", null);
    this.back = h("button", { type: "button", class: "button", onclick: () => this.leave() }, "Back to now");
    this.element = h(
      "section",
      { class: "card versions", "aria-label": "Versions" },
      h("div", { class: "line" }, h("h2", null, "Versions"), this.range, this.back),
      this.said,
      this.changes,
    );
  }

  /** The button hides itself: the focus goes to the slider. */
  leave() {
    this.range.focus();
    return this.go(this.last());
  }

  last() {
    return this.screen.order.version;
  }

  /** Remember a version that was read anyway. */
  keep(order) {
    this.orders.set(order.version, order);
  }

  async versionOf(version) {
    const { id, signal } = this.screen;
    if (!this.orders.has(version)) this.keep((await read(`orders/${id}`, { query: { version }, signal, orderId: id })).body);
    return this.orders.get(version);
  }

  /** Show a version. If the slider moved on meanwhile, the answer is not shown. */
  async go(version) {
    const at = version === this.last() ? null : version;
    this.at = at;
    if (at === null) this.screen.showPast(null); // before what changed is read
    try {
      const order = await this.versionOf(version);
      const before = version > 1 ? await this.versionOf(version - 1) : null;
      if (this.at !== at || (at === null && version !== this.last())) return;
      this.changed = { version, list: before ? differences(before, order) : null, currency: order.currency };
      this.screen.showPast(at === null ? null : order);
      announce(this.said.textContent);
    } catch (error) {
      if (!this.screen.signal.aborted) show(this.changes, failure(error, () => this.go(version)));
    }
  }

  render() {
    const version = this.at ?? this.last();
    const event = this.screen.events[version - 1];
    this.range.max = this.last();
    this.range.value = version;
    this.range.setAttribute("aria-valuetext", `${version} of ${this.last()}, ${event ? eventWords(event.type).say : ""}`);
    this.back.hidden = this.at === null;
    const when = this.at === null ? ", as it is now" : ". What you see is how the order was then.";
    show(this.said, `Version ${version} of ${this.last()}: ${event ? eventWords(event.type).say : ""}`, event && [", ", time(event.occurred_at, true)], when);
    const list = this.changed?.version === version ? this.changed : null;
    show(this.changes, list && (list.list === null ? h("p", { class: "small muted" }, "The first version.") : changesOf(list.list, list.currency)));
  }
}

/** What changed, as a list. */
export function changesOf(list, currency) {
  if (!list.length) return h("p", { class: "small muted" }, "Nothing that this page shows.");
  const rows = list.map(({ path, row, before, after }) => {
    const name = row ? `${memberWords(path)} (${row})` : memberWords(path);
    const old = before === undefined || before === null ? null : h("del", null, own(valueOf(path, before, currency)));
    const fresh = after === undefined || after === null ? "nothing" : own(valueOf(path, after, currency));
    return [h("dt", null, own(name)), h("dd", null, old, old && " → ", h("ins", null, fresh))];
  });
  return h("dl", { class: "changes" }, rows);
}

function valueOf(path, value, currency) {
  if (typeof value === "number" && path.endsWith("_minor")) return money(value, currency);
  if (typeof value === "string" && TIMES.test(value)) return time(value).textContent;
  if (typeof value === "object") return rowOf(value);
  return typeof value === "string" ? said(value) : String(value);
}

function rowOf(row) {
  if (row.lines) return row.lines.map((line) => `${line.quantity} × ${line.sku}`).join(", ");
  return said(row.code ?? row.name ?? row.label ?? JSON.stringify(row));
}
