/** The words of the API as people read them. An unknown word is shown as it is: later versions may add some. */

export const STATUSES = ["pending", "paid", "processing", "shipped", "delivered", "cancelled"];

// Tone of a word: what a pill looks like.
const TONES = {
  pending: "warn",
  paid: "info",
  processing: "info",
  shipped: "info",
  delivered: "good",
  cancelled: "",
  captured: "good",
  reserved: "good",
  settled: "good",
  ok: "good",
  refund_failed: "bad",
  declined: "bad",
  rejected: "bad",
  failed: "bad",
  partly_captured: "bad",
};

export function tone(word) {
  return TONES[word] ?? "";
}

const SAID = {
  not_required: "nothing to pay",
  partly_captured: "paid in part",
  captured: "captured",
  refund_failed: "refund failed",
  out_of_stock: "out of stock",
  stock_timeout: "stock not reserved in time",
  customer_request: "the customer asked for it",
  look_at_payment: "check the payment",
  look_at_refund: "check the refund",
  look_at_dispute: "check the dispute",
  release_part: "release cancelled units",
  reserve: "reserve the stock",
  release: "release the stock",
  create_payment: "open the payment",
  capture: "capture the money",
  void: "void the payment",
  refund: "refund the money",
  cancel: "cancel the order",
  expire: "expire, if it is not paid",
  call_person: "raise a flag",
  refund_overdue: "refund overdue",
  payment_refused: "the provider refused the payment",
  dispute: "the payment is disputed",
  amount_mismatch: "amounts do not add up",
  refunded_open_order: "refunded in full, but still open",
  stuck: "a call keeps failing",
  frozen_by_operator: "frozen by an operator",
};

/** A word of the API, such as `out_of_stock`. */
export function said(word) {
  return SAID[word] ?? word.replaceAll("_", " ");
}

export function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

// Type of an event: [sentence, tone].
const EVENTS = {
  OrderPlaced: ["Order placed", "info"],
  OrderImported: ["Imported from an older service", "info"],
  OrderCancelled: ["Order cancelled", "bad"],
  LinesCancelled: ["Units cancelled", "bad"],
  PaymentRequested: ["Payment requested", ""],
  PaymentOpened: ["Payment opened", ""],
  PaymentPending: ["Payment pending", ""],
  PaymentDeclined: ["Card declined", "bad"],
  PaymentAuthorised: ["Payment authorised", ""],
  PaymentCaptured: ["Payment captured", "good"],
  PaymentVoided: ["Payment voided", ""],
  RefundRequested: ["Refund requested", ""],
  RefundSubmitted: ["Refund submitted", ""],
  RefundSettled: ["Refund settled", "good"],
  RefundFailed: ["Refund failed", "bad"],
  DisputeOpened: ["Dispute opened", "bad"],
  DisputeClosed: ["Dispute closed", ""],
  StockReserved: ["Stock reserved", "good"],
  StockRejected: ["Stock rejected", "bad"],
  StockReleased: ["Stock released", ""],
  FulfilmentStarted: ["Processing started", "info"],
  ParcelShipped: ["Parcel shipped", "info"],
  OrderShipped: ["Order shipped", "info"],
  ParcelDelivered: ["Parcel delivered", "good"],
  OrderDelivered: ["Order delivered", "good"],
  AttentionRaised: ["Flag raised", "bad"],
  AttentionResolved: ["Flag resolved", "good"],
  MetadataChanged: ["Metadata changed", ""],
};

/** {say, tone} of an event. */
export function eventWords(type) {
  const [say, of] = EVENTS[type] ?? [capital(type.replace(/(?<=[a-z])(?=[A-Z])/g, " ").toLowerCase()), ""];
  return { say, tone: of };
}

const ACTORS = { gateway: "the customer, through", admin: "", reconciler: "the ledger", operator: "operator" };

/** Who caused an event: `admin:desk` as "desk", `gateway:web` as "the customer, through web". */
export function actorWords(actor) {
  const [role, name] = actor.split(/:(.*)/s);
  const before = ACTORS[role];
  return [before ?? role, name].filter(Boolean).join(" ");
}

const MEMBERS = {
  total_minor: "Total",
  captured_minor: "Captured",
  refunded_minor: "Refunded",
  "axes.order": "Order",
  "axes.payment": "Payment",
  "axes.stock": "Stock",
  "axes.fulfilment": "Fulfilment",
  "payment.attempt": "Payment attempt",
  "payment.state": "State of the attempt",
  cancel_reason: "Reason",
  cancelled_quantity: "cancelled",
  shipped_quantity: "shipped",
  refunded_quantity: "refunded",
  shipped_at: "Shipped at",
  delivered_at: "Delivered at",
  expires_at: "To be paid until",
};

/** A member of an order, by its path. */
export function memberWords(path) {
  return MEMBERS[path] ?? capital(path.replaceAll("_", " ").replaceAll(".", ", "));
}
