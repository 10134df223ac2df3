/** One order: what it is, what happened, what it owes, what can be done with it; as it is now, live, or as of an earlier version. */

import { heardOf, Problem, read } from "./api.js";
import { actionBar } from "./actions.js";
import { announce, h, own, show, showAgain } from "./dom.js";
import { money, time } from "./format.js";
import { follow, liveMark } from "./live.js";
import { contactPart, detailsPart, linesPart, notesPart, owesPart, parcelsPart, refundsPart } from "./order_parts.js";
import { flagPills, pill } from "./order_table.js";
import { attentionPart } from "./resolving.js";
import { timelinePart } from "./timeline.js";
import { failure } from "./toasts.js";
import { eventWords } from "./words.js";
import { VersionSlider } from "./versions.js";

const EVENTS_PAGE = 200;
const SETTLE_MS = 60; // events of one moment are shown together

export function orderScreen(id, signal) {
  return new OrderScreen(id, signal).element;
}

class OrderScreen {
  constructor(id, signal) {
    Object.assign(this, { id, signal, events: [], order: null, past: null, asked: 0, shown: 0 });
    this.mark = h("span", { class: "live" });
    this.state = liveMark(this.mark);
    this.problems = h("div", null, h("p", { class: "muted" }, "Reading…"));
    this.above = h("div", { class: "stack" });
    this.below = h("div", { class: "columns" });
    const crumbs = h("nav", { class: "crumbs", "aria-label": "Where you are" }, h("a", { href: "#/orders" }, "Orders"), h("span", { "aria-hidden": "true" }, "/"), h("span", null, "Order"));
    const head = h("div", { class: "screen-head" }, crumbs, h("div", { class: "end" }, this.mark));
    this.slider = new VersionSlider(this); // stays in the page: an element that is moved cannot be dragged
    this.slider.element.hidden = true;
    this.element = h("div", { class: "screen" }, head, this.problems, this.above, this.slider.element, this.below);
    this.begin();
  }

  async begin() {
    try {
      await Promise.all([this.readEvents(), this.readNotes()]);
      await this.refresh();
    } catch (error) {
      if (!this.signal.aborted) show(this.problems, failure(error, () => this.begin()));
      return;
    }
    const last = String(this.events.at(-1)?.version ?? 0);
    const heard = (message) => this.heard(JSON.parse(message.data));
    await follow(`orders/${this.id}/events`, { last, signal: this.signal, heard, state: this.state });
  }

  async readEvents() {
    for (;;) {
      const query = { after: this.events.at(-1)?.version ?? 0, limit: EVENTS_PAGE };
      const { body } = await read(`orders/${this.id}/events`, { query, signal: this.signal, orderId: this.id });
      for (const event of body.data) this.add(event);
      if (body.data.length < EVENTS_PAGE) return;
    }
  }

  /** Add an event, unless it is known: the stream and a read may both bring it. */
  add(event) {
    if (event.version <= (this.events.at(-1)?.version ?? 0)) return false;
    this.events.push(event);
    heardOf(this.id, event);
    return true;
  }

  heard(event) {
    if (!this.add(event)) return;
    announce(`Version ${event.version}: ${eventWords(event.type).say}`);
    clearTimeout(this.settling);
    this.settling = setTimeout(() => this.refresh().catch((error) => this.fail(error)), SETTLE_MS);
  }

  /** Read the order and all about it again, and show it, unless a read that began later is already shown. */
  async refresh() {
    const turn = (this.asked += 1);
    const [order, outlook, refunds] = await Promise.all([this.part(""), this.part("/outlook"), this.part("/refunds")]);
    if (turn < this.shown) return;
    Object.assign(this, { order, outlook, refunds, shown: turn });
    this.slider.keep(order);
    this.render();
  }

  /** Notes are no events, and each reading of them is audited: they are read with the page, and after one's own change. */
  async readNotes() {
    this.notes = await this.part("/notes").catch(ifForbidden);
  }

  async part(path) {
    const { body } = await read(`orders/${this.id}${path}`, { signal: this.signal, orderId: this.id });
    return body;
  }

  fail(error) {
    const retry = () => this.refresh().catch((again) => this.fail(again));
    if (!this.signal.aborted) show(this.problems, failure(error, retry));
  }

  /** Show the order as of an earlier version; null: as it is now. */
  showPast(order) {
    this.past = order;
    this.render();
  }

  /** A command was decided: show what it led to. The stream brings the event too, perhaps later. */
  async done() {
    await Promise.all([this.readEvents(), this.readNotes()]);
    await this.refresh();
  }

  render() {
    const order = this.past ?? this.order;
    const isNow = this.past === null;
    show(this.problems);
    const above = [
      titleOf(order),
      isNow && attentionPart(this),
      isNow && order.frozen && frozenMessage(order.frozen),
      figures(order),
      isNow && actionBar(this),
    ];
    const below = [
      h("div", { class: "stack" }, linesPart(order), timelinePart(this.events, order), refundsPart(this.refunds, order)),
      h(
        "div",
        { class: "stack" },
        isNow && owesPart(this.outlook),
        parcelsPart(order),
        contactPart(order),
        isNow && this.notes && notesPart(this),
        detailsPart(order),
      ),
    ];
    showAgain([this.above, above], [this.below, below]);
    this.slider.element.hidden = false;
    this.slider.render();
    document.title = `${order.number} · Order Ledger`;
  }
}

/** What a role may not read is not shown. */
function ifForbidden(error) {
  if (error instanceof Problem && error.status === 403) return null;
  throw error;
}

function titleOf(order) {
  const version = h("span", { class: "muted small" }, `version ${order.version}`);
  return h("div", { class: "order-title" }, h("h1", { class: "mono" }, order.number), pill(order.status), flagPills(order), version);
}

function frozenMessage(frozen) {
  const text = `The record at partition ${frozen.partition}, offset ${frozen.offset} could not be applied (${frozen.reason}).`;
  const then = "Nothing can be done with this order until an operator has investigated it.";
  return h("div", { class: "message bad" }, h("strong", null, "This order is frozen"), h("span", null, text, " ", then));
}

function figures(order) {
  const rows = [
    ["Total", h("span", { class: "money" }, money(order.total_minor, order.currency))],
    ["Captured", h("span", { class: "money" }, money(order.captured_minor, order.currency))],
    ["Refunded", h("span", { class: "money" }, money(order.refunded_minor, order.currency))],
    ["Customer", h("a", { "data-keep": "customer", href: `#/orders?customer_id=${encodeURIComponent(order.customer_id)}` }, own(order.customer_id))],
    ["Placed", time(order.placed_at)],
  ];
  return h("dl", { class: "figures" }, rows.map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value))));
}
