/**
 * Orders: found by number, reference, e-mail address or customer; filtered; newest first; live. Filters are in the address of the page,
 * an e-mail address never is.
 */

import { addressOf, forgetPosition, heardOf, ORDER_ID, read } from "./api.js";
import { announce, empty, h, show } from "./dom.js";
import { count, FIRST_DAY } from "./format.js";
import { follow, liveMark, repeat, whenAsked } from "./live.js";
import { orderRow, orderTable } from "./order_table.js";
import { failure } from "./toasts.js";
import { capital, STATUSES } from "./words.js";

const PAGE = 50;
const SEARCHED_MS = 30_000; // a search by e-mail address is audited
const LIST = "all orders"; // in the place of an order id: the list includes the last event that was heard
const LEAST_MS = 1_000; // between two reads, however many events there are
// What to find by: the parameter of `listOrders`. Alone: it excludes every filter.
const FIND = { number: "Number", reference: "Reference", email: "E-mail address", customer_id: "Customer" };
const ALONE = new Set(["number", "email"]);
const WITHOUT_STATUS = new Set(["number", "email", "reference"]);
const IN_ADDRESS = ["status", "attention", "placed_from", "placed_to", "number", "reference", "customer_id"];

export function ordersScreen(query, signal) {
  const wanted = Object.fromEntries(IN_ADDRESS.map((name) => [name, query.get(name) ?? ""]));
  const list = new OrderList(signal);
  const mark = h("span", { class: "live" });
  list.state = liveMark(mark);
  const head = h("div", { class: "screen-head" }, h("h1", null, "Orders"), h("div", { class: "end" }, mark));
  const parts = [head, findForm(wanted, list), filters(wanted), list.element];
  list.read(wanted);
  return h("div", { class: "screen" }, parts);
}

/** The page with other filters: a new address, so that the browser's back button works. */
function go(wanted) {
  const kept = Object.fromEntries(Object.entries(wanted).filter(([name]) => IN_ADDRESS.includes(name)));
  const address = addressOf("#/orders", kept);
  if (location.hash === address) window.dispatchEvent(new HashChangeEvent("hashchange"));
  else location.hash = address;
}

function findForm(wanted, list) {
  const by = Object.keys(FIND).find((name) => wanted[name]) ?? "number";
  const choice = h("select", null, Object.entries(FIND).map(([name, text]) => h("option", { value: name, selected: name === by }, text)));
  const field = h("input", {
    type: "search",
    "data-find": "",
    value: wanted[by] ?? "",
    autocomplete: "off",
    spellcheck: "false",
    maxlength: 254,
    oninput: () => {
      if (field.value.includes("@")) choice.value = "email";
    },
  });
  async function search(event) {
    event.preventDefault();
    const text = field.value.trim();
    const others = Object.fromEntries(Object.keys(FIND).map((name) => [name, ""]));
    if (ORDER_ID.test(text)) location.hash = `#/orders/${text}`;
    else if (choice.value === "email" && text) await list.read({ email: text });
    else if (ALONE.has(choice.value) || (WITHOUT_STATUS.has(choice.value) && text)) go({ [choice.value]: text });
    else go({ ...wanted, ...others, [choice.value]: text });
  }
  return h(
    "form",
    { class: "find", role: "search", onsubmit: search },
    h("label", { class: "field" }, h("span", null, "Find by"), choice),
    h("label", { class: "field" }, h("span", null, "Text to find"), field),
    h("button", { class: "button primary" }, "Find"),
  );
}

function filters(wanted) {
  const tab = (status, text) => {
    const isOn = wanted.status === status;
    const chosen = () => go({ ...cleared(wanted), status });
    return h("button", { type: "button", "aria-pressed": String(isOn), "data-keep": `status ${status}`, onclick: chosen }, text);
  };
  const flag = h("input", {
    type: "checkbox",
    "data-keep": "attention",
    checked: wanted.attention === "true",
    onchange: () => go({ ...cleared(wanted), attention: flag.checked ? "true" : "" }),
  });
  const dates = ["placed_from", "placed_to"].map((name) => {
    const changed = ({ target }) => {
      if (target.validity.valid) go({ ...cleared(wanted), [name]: target.value ? boundary(target.value, name) : "" });
    };
    const limits = { min: FIRST_DAY, max: "9999-12-30" }; // also of what is half typed: the year 0002
    return h("input", { type: "date", ...limits, "data-keep": name, value: localDay(wanted[name]), onchange: changed });
  });
  return [
    h(
      "div",
      { class: "tabs", role: "group", "aria-label": "Status" },
      tab("", "All"),
      STATUSES.map((status) => tab(status, capital(status))),
    ),
    h(
      "div",
      { class: "row" },
      h("label", { class: "field" }, h("span", null, "Placed from"), dates[0]),
      h("label", { class: "field" }, h("span", null, "to"), dates[1]),
      h("label", { class: "check" }, flag, "Only what needs attention"),
    ),
  ];
}

/** Filters without what cannot be combined with a status. */
function cleared(wanted) {
  return { ...wanted, number: "", reference: "" };
}

/** The first or last millisecond of a day in the reader's zone. */
function boundary(day, name) {
  return new Date(`${day}T${name === "placed_from" ? "00:00:00.000" : "23:59:59.999"}`).toISOString();
}

function localDay(at) {
  const date = new Date(at || NaN);
  const local = new Date(date.getTime() - date.getTimezoneOffset() * 60_000);
  return Number.isNaN(local.getTime()) ? "" : local.toISOString().slice(0, 10);
}

/**
 * The orders that were read, newest first. The first page is read again and again, and is always as the ledger has it now. Below it is
 * what was read by "Show more", as it was then, without a gap: if more than a page is new, the list starts over.
 */
class OrderList {
  constructor(signal) {
    this.signal = signal;
    this.body = h("tbody", null);
    this.foot = h("div", { class: "row" });
    this.said = h("div", null);
    this.table = orderTable("Orders, newest first", this.body);
    this.element = h("section", { class: "part", "aria-label": "Orders" }, this.said, this.table, this.foot);
    this.state = () => {};
  }

  /** Show other orders, from the first page on. */
  async read(wanted) {
    this.stopping?.abort();
    this.stopping = new AbortController();
    const signal = AbortSignal.any([this.signal, this.stopping.signal]);
    this.wanted = wanted;
    this.cursor = undefined;
    this.clear();
    show(this.foot);
    show(this.said, h("p", { class: "muted" }, "Reading…"));
    const failed = (error) => this.fail(error);
    if (wanted.email || wanted.number) {
      await repeat(() => this.refresh(signal), { every: SEARCHED_MS, signal, state: this.state, failed });
      return;
    }
    const ask = whenAsked(() => this.refresh(signal), { after: LEAST_MS, signal, failed });
    const state = (now) => {
      this.state(now);
      if (now === "live") ask(); // for what happened before the stream was there
    };
    const query = { start: "end", customer: wanted.customer_id };
    const heard = (message) => {
      heardOf(LIST, JSON.parse(message.data));
      ask();
    };
    await follow("events", { query, signal, heard, state, lost: () => this.startOver() });
  }

  /** The log is another one, as after a restore: nothing that was read before need be true. The next read fills the list. */
  startOver() {
    forgetPosition(LIST);
    this.cursor = undefined;
    this.clear();
  }

  async refresh(signal) {
    const { body } = await read("orders", { query: { ...this.wanted, limit: PAGE }, signal, orderId: LIST });
    const first = this.cursor === undefined;
    const isGap = body.next_cursor && !body.data.some((order) => this.rows.has(order.order_id));
    if (isGap) this.clear();
    if (!body.next_cursor) this.hasMore = false;
    this.prune(body.data);
    this.merge(body.data, !first && !isGap);
    if (!this.hasMore) this.cursor = body.next_cursor;
    this.live = body.data.length;
    this.summary();
  }

  async more() {
    const { rows, cursor } = this;
    this.hasMore = true; // from now on the first page does not move the cursor
    const { body } = await read("orders", { query: { ...this.wanted, limit: PAGE, cursor }, signal: this.signal });
    if (this.rows !== rows) return; // the list has started over
    this.cursor = body.next_cursor;
    const at = this.rows.size;
    for (const order of body.data) this.put(order, false, null);
    this.summary();
    [...this.body.rows][at]?.querySelector("a").focus();
    announce(`${count(body.data.length)} more orders`);
  }

  clear() {
    this.rows = new Map();
    this.hasMore = false;
    show(this.body);
  }

  /** Remove the rows that belong to the first page and are not in it any more: another status, or further down by now. */
  prune(orders) {
    const page = new Set(orders.map((order) => order.order_id));
    const last = orders.at(-1)?.placed_at ?? "";
    for (const [id, known] of this.rows) if (!page.has(id) && (!this.hasMore || known.placedAt > last)) this.remove(id, known.row);
  }

  remove(id, row) {
    const near = row.contains(document.activeElement) && (row.nextElementSibling ?? row.previousElementSibling);
    row.remove();
    this.rows.delete(id);
    if (near) near.querySelector("a").focus();
  }

  /** Put the first page on top: new orders, and changes of those that are there. */
  merge(orders, fresh) {
    let before = this.body.firstElementChild;
    for (const order of orders) {
      const known = this.rows.get(order.order_id);
      if (!known) this.put(order, fresh, before);
      else if (known.version !== order.version) this.replace(order, known);
      before = this.rows.get(order.order_id).row.nextElementSibling;
    }
  }

  put(order, fresh, before) {
    const known = this.rows.get(order.order_id);
    if (known) return;
    const row = orderRow(order, fresh);
    this.body.insertBefore(row, before);
    this.rows.set(order.order_id, { version: order.version, placedAt: order.placed_at, row });
  }

  replace(order, known) {
    const row = orderRow(order, true);
    const focused = known.row.contains(document.activeElement);
    known.row.replaceWith(row);
    if (focused) row.querySelector("a").focus();
    this.rows.set(order.order_id, { version: order.version, placedAt: order.placed_at, row });
  }

  summary() {
    const none = this.rows.size === 0;
    show(this.said, none && empty("No orders", "Nothing matches. Check the spelling, or take a filter away."));
    this.table.hidden = none;
    const load = h("button", { type: "button", class: "button", onclick: () => this.loadMore(load) }, "Show more");
    const older = this.rows.size - this.live;
    const asked = older > 0 ? `, the last ${count(older)} as they were when you asked for them` : "";
    const text = `${count(this.rows.size)} shown${asked}`;
    show(this.foot, !none && h("span", { class: "muted small" }, text), this.cursor && load);
  }

  async loadMore(button) {
    button.disabled = true;
    try {
      await this.more();
    } catch (error) {
      if (!this.signal.aborted) show(this.foot, failure(error, () => this.loadMore(button)));
    }
  }

  fail(error) {
    if (!this.rows.size) this.table.hidden = true;
    show(this.said, failure(error));
  }
}
