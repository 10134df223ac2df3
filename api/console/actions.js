/** What can be done with an order now: a button for each action of its outlook, which the ledger itself gives. No other is shown. */

import { h } from "./dom.js";
import { check, choice, longText, openAction, text, units } from "./forms.js";
import { minorOf, money, typed } from "./format.js";
import { capital } from "./words.js";

const CANCEL_REASONS = { customer_request: "The customer asked for it", fraud: "Fraud", other: "Another reason" };
const CUT_REASONS = { customer_request: "The customer asked for it", out_of_stock: "Out of stock", fraud: "Fraud", other: "Another reason" };
const REFUND_REASONS = { goodwill: "Goodwill", damaged: "Damaged", late: "Late", returned: "Returned", other: "Another reason" };
const CARRIER = () => [
  text("carrier", "Carrier", { maxlength: 40, hint: "Customers read it in their message." }),
  text("tracking", "Tracking number", { maxlength: 64 }),
];

const FORWARD = new Set(["setOrderStatus", "createShipment", "confirmShipment"]);

/** The buttons of an order; the first one is the usual next step. */
export function actionBar(screen) {
  const shown = screen.outlook.actions.filter((action) => DIALOGS[action.operation]);
  if (!shown.length) return null;
  const buttons = shown.map((action, index) => {
    const { label, danger } = labelOf(action);
    const kind = danger ? "danger" : index === 0 && FORWARD.has(action.operation) ? "primary" : "";
    const open = () => openAction(screen, DIALOGS[action.operation](action, screen.order));
    return h("button", { type: "button", class: `button ${kind}`, "data-keep": label, onclick: open }, `${label}…`);
  });
  return h("div", { class: "actions", role: "group", "aria-label": "Actions" }, buttons);
}

const LABELS = {
  createShipment: "Ship a parcel",
  requestRefund: "Refund",
  cancelLines: "Cancel units",
  cancelOrder: "Cancel order",
  changeMetadata: "Change metadata",
};
const STATUS_LABELS = { processing: "Start processing", shipped: "Ship all that remains", delivered: "Mark as delivered" };

function labelOf(action) {
  if (action.operation === "setOrderStatus") return { label: STATUS_LABELS[action.status] ?? capital(action.status) };
  if (action.operation === "confirmShipment") return { label: `Parcel ${action.number} delivered` };
  return { label: LABELS[action.operation], danger: action.operation === "cancelOrder" };
}

// Operation -> its dialog, from the action and the order.
const DIALOGS = {
  setOrderStatus: (action) => {
    const { label } = labelOf(action);
    const isShipping = action.status === "shipped";
    return {
      title: label,
      text: isShipping ? "Everything that has not been shipped goes into one parcel." : `The order becomes ${action.status}.`,
      fields: isShipping ? CARRIER() : [],
      submit: label,
      request: (values) => ({ method: "PUT", path: "/status", body: { status: action.status, ...filled(values) } }),
      done: isShipping ? "Shipped" : capital(action.status),
    };
  },
  createShipment: (action, order) => ({
    title: "Ship a parcel",
    fields: [units("What is in it", action.lines, order, true), ...CARRIER()],
    submit: "Ship parcel",
    request: ({ lines, ...values }) => {
      if (!lines.length) throw new RangeError("A parcel has at least one unit.");
      return { method: "POST", path: "/shipments", body: { lines, ...filled(values) } };
    },
    done: "Parcel shipped",
  }),
  confirmShipment: (action) => ({
    title: `Parcel ${action.number} delivered`,
    text: "The carrier, or the customer, says that it arrived.",
    submit: "Mark as delivered",
    request: () => ({ method: "POST", path: `/shipments/${action.number}/delivered`, body: {} }),
    done: `Parcel ${action.number} delivered`,
  }),
  requestRefund: (action, order) => ({
    title: "Refund",
    text: `At most ${money(action.amount_minor, order.currency)}. ${action.lines ? "Give an amount, or units whose price is refunded, or both. " : ""}The order continues.`,
    fields: [
      text("amount", `Amount in ${order.currency}`, {
        inputmode: "decimal",
        hint: `Such as ${typed(action.amount_minor, order.currency)}. Empty: the price of what is chosen below.`,
      }),
      ...(action.lines ? [units("Units", action.lines, order, false)] : []), // without units, money may be left: shipping, goodwill
      check("shipping", "Also the shipping"),
      ...(action.lines ? [check("restock", "The units came back and can be sold again")] : []),
      choice("reason", "Reason", REFUND_REASONS),
    ],
    submit: "Refund",
    request: (values) => refundOf(values, action, order),
    done: "Refund requested",
  }),
  cancelLines: (action, order) => ({
    title: "Cancel units",
    text: "The order continues without them; what was paid for them is refunded. Without any unit left it is cancelled.",
    fields: [
      units("Units to cancel", action.lines, order, false),
      check("shipping", "Also give back what the order pays for shipping"),
      choice("reason", "Reason", CUT_REASONS),
    ],
    submit: "Cancel units",
    danger: true,
    request: (values) => {
      if (!values.lines.length) throw new RangeError("Choose at least one unit.");
      return { method: "POST", path: "/lines/cancel", body: values };
    },
    done: "Units cancelled",
  }),
  cancelOrder: (action, order) => ({
    title: "Cancel order",
    text: order.captured_minor
      ? `This is final. ${money(order.captured_minor - order.refunded_minor, order.currency)} will be refunded, and the stock released.`
      : "This is final. No money was taken; the stock is released.",
    fields: [choice("reason", "Reason", CANCEL_REASONS)],
    submit: "Cancel order",
    danger: true,
    request: ({ reason }) => ({ method: "POST", path: "/cancel", body: { reason } }),
    done: "Cancelled",
  }),
  changeMetadata: () => ({
    title: "Change metadata",
    text: "Ids of the shop for this order. They stay in the log for ever: no names, no addresses.",
    fields: [
      text("name", "Name", { required: true, pattern: "[a-z0-9_]{1,40}", hint: "Small letters, digits and _." }),
      text("value", "Value", { maxlength: 200, hint: "Empty removes the entry." }),
    ],
    submit: "Change",
    request: ({ name, value }) => ({ method: "PATCH", path: "/metadata", body: { metadata: { [name]: value || null } } }),
    done: "Metadata changed",
  }),
};

function refundOf({ amount, lines = [], shipping, restock, reason }, action, order) {
  const body = { reason };
  if (amount) {
    body.amount_minor = minorOf(amount, order.currency);
    if (!body.amount_minor) throw new RangeError(`“${amount}” is no amount in ${order.currency}.`);
    if (body.amount_minor > action.amount_minor) throw new RangeError(`At most ${money(action.amount_minor, order.currency)} can be refunded.`);
  }
  if (lines.length) body.lines = lines;
  if (shipping) body.shipping = true;
  if (restock) body.restock = true;
  if (!amount && !lines.length && !shipping) throw new RangeError("Give an amount, units, or the shipping.");
  if (restock && !lines.length) throw new RangeError("Say which units came back.");
  return { method: "POST", path: "/refunds", body };
}

/** The values that are not empty. */
function filled(values) {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== ""));
}

/** The button that adds a note, if the role may. */
export function addNoteButton(screen) {
  if (!screen.outlook.actions.some((action) => action.operation === "addNote")) return null;
  const open = () =>
    openAction(screen, {
      title: "Add a note",
      fields: [longText("text", "Note", { maxlength: 1000, hint: "Staff read it, the customer does not. It is erased with the contact." })],
      submit: "Add note",
      unversioned: true, // a note is no part of the order
      // The API takes no control characters, so a line break is a space.
      request: ({ text: said }) => ({ method: "POST", path: "/notes", body: { text: said.replace(/\s+/g, " ") } }),
      done: "Note added",
    });
  return h("div", null, h("button", { type: "button", class: "button", "data-keep": "note", onclick: open }, "Add a note…"));
}

/** The button that deletes a note. */
export function deleteNoteButton(screen, note) {
  const open = () =>
    openAction(screen, {
      title: "Delete the note",
      text: "It is gone for good, on every node.",
      submit: "Delete note",
      danger: true,
      unversioned: true,
      goneIsDone: true, // by an earlier try whose answer was lost, or by somebody else
      request: () => ({ method: "DELETE", path: `/notes/${note.note_id}` }),
      done: "Note deleted",
    });
  return h("button", { type: "button", class: "button plain small", "data-keep": `delete ${note.note_id}`, onclick: open }, "Delete…");
}
