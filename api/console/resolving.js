/** Flags of an order, each with what a person can do about it. */

import { h } from "./dom.js";
import { choice, openAction, text } from "./forms.js";
import { minorOf, since, typed } from "./format.js";
import { capital, said } from "./words.js";

const ADVICE = {
  refund_failed: "The provider refused the refund three times. Refund in another way, or let the ledger try again.",
  refund_overdue: "The provider has not settled the refund for 14 days. Ask the provider.",
  payment_refused: "The provider refuses to open a payment for this order: another card does not help.",
  dispute: "The customer's bank disputes the payment. Answer it at the provider.",
  amount_mismatch: "The provider took or returned another amount than the order says.",
  refunded_open_order: "All the money was returned, but the order is open. Cancel it, or settle it in another way.",
  stuck: "A call has had no success for an hour. The ledger continues every 15 minutes.",
  frozen_by_operator: "An operator froze the order: nothing is done for it until this is resolved.",
};

/** A message for each flag; nothing if there is none. */
export function attentionPart(screen) {
  const actions = screen.outlook.actions.filter((action) => action.operation === "resolveAttention");
  return screen.order.attention.map((flag) => {
    const action = actions.find((one) => one.obligation_key === flag.obligation_key && one.code === flag.code);
    const resolve = action && resolveButton(screen, flag);
    return h(
      "div",
      { class: "message bad" },
      h("strong", null, capital(said(flag.code)), h("span", { class: "muted small" }, " · waiting for ", since(flag.since))),
      h("span", null, ADVICE[flag.code] ?? "Only a person can decide how this continues."),
      h("code", { class: "small muted" }, flag.obligation_key),
      resolve && h("div", { class: "row" }, resolve),
    );
  });
}

function resolveButton(screen, flag) {
  const name = `resolve ${flag.code} ${flag.obligation_key}`;
  return h("button", { type: "button", class: "button", "data-keep": name, onclick: () => dialog(screen, flag) }, "Resolve…");
}

/** What `settled_elsewhere` counts as refunded if no amount is sent, in minor units; `resolve_attention` of the ledger decides it. */
function countedWithoutAmount({ order, refunds }, flag) {
  if (order.status !== "cancelled" && !flag.code.startsWith("refund_")) return 0;
  const underWay = (refunds.data ?? []).filter((refund) => refund.state === "submitted");
  return underWay.reduce((sum, refund) => sum + refund.amount_minor, refunds.owed_minor);
}

function dialog(screen, flag) {
  const { currency } = screen.order;
  const owed = countedWithoutAmount(screen, flag);
  openAction(screen, {
    title: `Resolve: ${said(flag.code)}`,
    submit: "Resolve",
    fields: [
      choice("action", "What was done", { retry: "Nothing yet: try again", settled_elsewhere: "It was settled in another way" }),
      text("amount", `Amount that was refunded elsewhere, in ${currency}`, {
        hint: `Only with “settled in another way”. Empty: ${owed ? `everything still to be refunded (${typed(owed, currency)})` : "no money"}.`,
        inputmode: "decimal",
      }),
      text("ticket", "Ticket", { hint: "Your own number for this. It stays in the log: no names.", maxlength: 64, pattern: "[A-Za-z0-9#_\\-]*" }),
    ],
    request: (values) => {
      const body = { code: flag.code, obligation_key: flag.obligation_key, action: values.action };
      if (values.amount && values.action === "settled_elsewhere") {
        body.amount_minor = minorOf(values.amount, currency);
        if (body.amount_minor === null) throw new RangeError(`“${values.amount}” is no amount in ${currency}.`);
      }
      if (values.ticket) body.ticket = values.ticket;
      return { method: "POST", path: "/attention", body };
    },
    done: "Resolved",
  });
}
