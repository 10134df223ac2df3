/** What happened to an order: every event, the newest first, with who caused it and when. */

import { h, own } from "./dom.js";
import { money, time } from "./format.js";
import { actorWords, eventWords, said } from "./words.js";

/** `order` is the version that is shown: later events are dimmed. */
export function timelinePart(events, order) {
  const rows = [...events].reverse().map((event) => {
    const { say, tone } = eventWords(event.type);
    const late = event.version > order.version ? "later" : "";
    return h(
      "li",
      { class: `${tone} ${late}` },
      h("span", null, h("span", { class: "say" }, say), detailOf(event, order.currency)),
      h("span", { class: "small muted" }, time(event.occurred_at)),
      h("span", { class: "by" }, `Version ${event.version}, by ${actorWords(event.actor)}`),
    );
  });
  return h("section", { class: "part" }, h("h2", null, "Timeline"), h("ol", { class: "timeline" }, rows));
}

/** The detail of an event in a few words. */
function detailOf(event, currency) {
  const d = event.detail;
  const words = [
    d.amount_minor !== undefined && d.amount_minor !== null ? money(d.amount_minor, currency) : "",
    ["reason", "code", "waiting_for", "outcome", "action"].map((name) => d[name]).filter(Boolean).map(said).join(", "),
    event.type.startsWith("Stock") ? d.service : "",
    [d.carrier, d.tracking].filter(Boolean).join(" "),
    units(event),
  ].filter(Boolean);
  return words.length ? h("span", { class: "muted" }, " · ", own(words.join(" · "))) : null;
}

function units(event) {
  const lines = event.detail.lines;
  if (!lines || event.type === "OrderPlaced") return "";
  return lines.map((line) => `${line.quantity} × ${line.sku}`).join(", ");
}
