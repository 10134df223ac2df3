/**
 * The dialog of an action. Nothing is shown before the ledger has answered. Each action carries an idempotency key and the version
 * that the person saw; a try that had no answer is repeated under the same key, so it cannot happen twice.
 */

import { command, newKey, NoAnswer, Problem, read } from "./api.js";
import { differences } from "./differences.js";
import { h, own, show } from "./dom.js";
import { tokenOf } from "./session.js";
import { failure, notice, toast } from "./toasts.js";
import { eventWords, said } from "./words.js";
import { changesOf } from "./versions.js";

const UNDECIDED = [408, 425, 429]; // as any 5xx, also of a proxy: the same key is safe, and right

/**
 * Open the dialog of an action on the order of `screen`. `action`: {title, text, fields, submit, danger, request, done, version}.
 * `request(values)` gives {method, path, body} and may raise `RangeError` for a value that is no good; `done` is what to say.
 */
export function openAction(screen, action) {
  new ActionDialog(screen, action).open();
}

class ActionDialog {
  constructor(screen, action) {
    Object.assign(this, { screen, action, seen: screen.order, key: null, tried: null });
    this.answer = h("div", { class: "stack" });
    this.submit = h("button", { class: `button ${action.danger ? "danger" : "primary"}` }, action.submit);
    this.cancel = h("button", { type: "button", class: "button", onclick: () => this.dialog.close() }, "Close");
    this.form = h(
      "form",
      { onsubmit: (event) => this.send(event), novalidate: false },
      h("h2", { id: "dialog-title" }, action.title),
      action.text && h("p", null, action.text),
      (action.fields ?? []).map((field) => field.element),
      this.answer,
      h("div", { class: "foot" }, this.cancel, this.submit),
    );
    this.dialog = h("dialog", { "aria-labelledby": "dialog-title", onclose: () => this.closed() }, this.form);
  }

  open() {
    this.opener = document.activeElement?.getAttribute("data-keep");
    document.body.append(this.dialog);
    this.dialog.showModal();
  }

  /** The focus returns to the button, or to one that took its place meanwhile. */
  closed() {
    this.dialog.remove();
    if (document.activeElement !== document.body) return;
    const button = document.querySelector(`[data-keep="${this.opener}"]`);
    (button ?? document.getElementById("main"))?.focus({ preventScroll: true });
  }

  async send(event) {
    event.preventDefault();
    if (this.isSending) return;
    const values = Object.fromEntries((this.action.fields ?? []).map((field) => [field.name, field.value()]));
    let wanted;
    try {
      wanted = this.action.request(values);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      show(this.answer, h("div", { class: "message bad", role: "alert" }, error.message));
      return;
    }
    const version = this.action.unversioned ? null : this.seen.version;
    const asked = JSON.stringify([wanted, version]);
    if (asked !== this.tried || this.key === null) this.key = newKey();
    this.tried = asked;
    this.sentBy = tokenOf();
    this.busy(true);
    try {
      const { method, path, body } = wanted;
      const id = this.screen.id;
      const waiting = () => show(this.answer, h("div", { class: "message" }, "Durable, and not decided yet. Waiting for the decision…"));
      const result = await command(method, `orders/${id}${path}`, { orderId: id, body, key: this.key, version, waiting });
      this.succeed(result);
    } catch (error) {
      this.fail(error);
    } finally {
      this.busy(false);
    }
  }

  busy(isSending) {
    this.isSending = isSending;
    this.submit.setAttribute("aria-disabled", String(isSending));
    this.submit.textContent = isSending ? "Sending…" : this.action.submit;
    if (isSending) show(this.answer);
  }

  succeed({ order, outcome, replayed }) {
    this.dialog.close();
    const same = outcome === "unchanged" ? ": it was so already" : replayed ? ": an earlier try had arrived" : "";
    const version = order?.version && !this.action.unversioned ? ` The order is ${said(order.status)}, version ${order.version}.` : "";
    toast(`${this.action.done}${same}.${version}`);
    this.screen.done().catch((error) => this.screen.fail(error));
  }

  fail(error) {
    if (this.action.goneIsDone && error instanceof Problem && error.code === "not-found") {
      this.succeed({ order: null, outcome: "unchanged", replayed: false });
      return;
    }
    const safe = isUndecided(error);
    if (!document.body.contains(this.dialog)) {
      if (this.sentBy === tokenOf()) sayAfterwards(this.action, error, safe);
      return;
    }
    if (!safe) this.key = null;
    if (error instanceof Problem && error.status === 412) this.conflict(error);
    else show(this.answer, failure(error), safe && h("p", { class: "small muted" }, "To send it again is safe: it happens once."));
  }

  /** Somebody was quicker: show what changed since the version that this person saw. */
  async conflict(error) {
    const { id, signal } = this.screen;
    const query = { after: this.seen.version };
    try {
      const [now, events] = await Promise.all([
        read(`orders/${id}`, { signal, orderId: id }),
        read(`orders/${id}/events`, { query, signal, orderId: id }),
      ]);
      const order = now.body;
      const steps = events.body.data.map((event) => h("li", null, eventWords(event.type).say, " · ", own(event.actor)));
      const again = h("button", { type: "button", class: "button", onclick: () => this.accept(order) }, `Do it with version ${order.version}`);
      show(
        this.answer,
        h(
          "div",
          { class: "message warn", role: "alert" },
          h("strong", null, "The order has changed"),
          h("span", null, `You saw version ${this.seen.version}; it is at version ${order.version} now. Nothing was done.`),
          h("ul", { class: "small" }, steps),
          changesOf(differences(this.seen, order), order.currency),
          h("div", { class: "row" }, again),
        ),
      );
      this.submit.hidden = true;
    } catch (other) {
      show(this.answer, failure(error), failure(other));
    }
  }

  accept(order) {
    this.seen = order;
    this.submit.hidden = false;
    this.form.requestSubmit(this.submit);
  }
}

/** Whether nothing is recorded under the key yet, or nobody knows. */
function isUndecided(error) {
  if (error instanceof Problem) return error.status >= 500 || UNDECIDED.includes(error.status);
  return error instanceof NoAnswer;
}

/** The dialog was closed while it was sending. */
function sayAfterwards({ title }, error, isUnknown) {
  if (isUnknown) notice(`${title}: whether it happened is unknown`, "The dialog was closed before the answer. Look at the order before you send it again.");
  else notice(`${title}: ${error.message}`, error.detail ?? "");
}

// ---- fields: {name, element, value()}

let ids = 0;

function labelled(title, control, hint) {
  const id = `field-${(ids += 1)}`;
  const said = hint && h("span", { class: "small muted", id }, hint);
  if (hint) control.setAttribute("aria-describedby", id);
  return h("div", { class: "field" }, h("label", { class: "field" }, h("span", null, title), control), said);
}

/** A line of text. `more`: `hint`, and attributes of the input. */
export function text(name, title, { hint, ...more } = {}) {
  const input = h("input", { type: "text", name, autocomplete: "off", ...more });
  return { name, element: labelled(title, input, hint), value: () => input.value.trim() };
}

/** Several lines of text. */
export function longText(name, title, { hint, ...more } = {}) {
  const input = h("textarea", { name, required: true, dir: "auto", ...more });
  return { name, element: labelled(title, input, hint), value: () => input.value.trim() };
}

/** One of several words: {word: what it says}. */
export function choice(name, title, words) {
  const options = Object.entries(words).map(([word, said]) => h("option", { value: word }, said));
  const select = h("select", { name }, options);
  return { name, element: labelled(title, select), value: () => select.value };
}

/** Yes or no. */
export function check(name, title, checked = false) {
  const input = h("input", { type: "checkbox", name, checked });
  return { name, element: h("label", { class: "check" }, input, title), value: () => input.checked };
}

/** Units of lines: at most `limits` ({service, sku, quantity}), `filled` with all of them or with none. */
export function units(title, limits, order, filled) {
  const names = new Map(order.lines.map((line) => [`${line.service} ${line.sku}`, line.name]));
  const inputs = limits.map((limit) => {
    const most = { type: "number", min: 0, max: limit.quantity, step: 1, value: filled ? limit.quantity : 0, inputmode: "numeric" };
    return { limit, input: h("input", most) };
  });
  const rows = inputs.map(({ limit, input }) =>
    h("label", null, h("span", null, own(names.get(`${limit.service} ${limit.sku}`) ?? limit.sku), h("span", { class: "muted small" }, ` of ${limit.quantity}`)), input),
  );
  return {
    name: "lines",
    element: h("fieldset", { class: "units" }, h("legend", null, title), rows),
    value: () =>
      inputs.map(({ limit, input }) => ({ ...limit, quantity: input.valueAsNumber || 0 })).filter((line) => line.quantity > 0),
  };
}
