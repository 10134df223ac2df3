/** The frame: who is signed in, which screen is shown, and the keys. The address has the screen and its filters, nothing personal. */

import { ORDER_ID, read, whenRead } from "./api.js";
import { announce, h, icon, show } from "./dom.js";
import { listenToKeys, showHelp } from "./keys.js";
import { repeat } from "./live.js";
import { signInScreen } from "./sign_in.js";
import { signOut, tokenOf, whenSignedOut } from "./session.js";
import { count, span } from "./format.js";
import { attentionScreen } from "./attention.js";
import { dayScreen } from "./day.js";
import { orderScreen } from "./order.js";
import { ordersScreen } from "./orders.js";
import { systemScreen } from "./system.js";

const SCREENS = {
  orders: ["Orders", ordersScreen],
  attention: ["Attention", attentionScreen],
  day: ["Day", dayScreen],
  system: ["System", systemScreen],
};
const BADGE_MS = 30_000;
const MOST_COUNTED = 100;
const STALE_MS = 3_000;

const app = document.getElementById("app");
let leaving = null; // AbortController of what the current screen does
let frame = null; // {main, content, links, close}
let reason = ""; // why the last token is not used any more
let shownBefore = false; // on the first screen the focus stays where the browser has it

/** The screen in the address: {name, id, query}. Anybody can make an address: only an id of an order gets into a request. */
function placeOf() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, id] = path.split("/");
  const known = Object.hasOwn(SCREENS, name);
  return { name: known ? name : "orders", id: ORDER_ID.test(id) ? id : null, query: new URLSearchParams(query ?? "") };
}

function openFrame() {
  const closing = new AbortController();
  const links = Object.fromEntries(
    Object.entries(SCREENS).map(([name, [title]]) => [name, h("a", { href: `#/${name}` }, icon(name), h("span", null, title))]),
  );
  const badge = h("span", { class: "count" });
  const old = h("p", { class: "notice-line", role: "status", hidden: true });
  const content = h("div", { class: "main" });
  const main = h("main", { id: "main", tabindex: "-1" }, old, content);
  const skip = h("button", { type: "button", class: "skip", onclick: () => main.focus() }, "Skip to content");
  const leave = h("button", { type: "button", class: "button plain", onclick: () => signOut() }, "Sign out");
  const help = h("button", { type: "button", class: "button plain wide", onclick: showHelp }, "Keys");
  const logo = h("img", { src: "console/icon.svg", alt: "" });
  const side = h(
    "header",
    { class: "side" },
    skip,
    h("div", { class: "brand" }, logo, "Order Ledger"),
    h("nav", { class: "nav", "aria-label": "Screens" }, Object.values(links)),
    h("div", { class: "side-foot" }, help, leave),
  );
  whenRead((ms) => {
    old.hidden = ms < STALE_MS;
    old.textContent = old.hidden ? "" : `The log does not answer this node: what you see may be ${span(ms)} old.`;
  });
  show(app, h("div", { class: "frame" }, side, main), h("div", { class: "toasts" }));
  repeat(() => countFlags(links.attention, badge, closing.signal), { every: BADGE_MS, signal: closing.signal });
  return { main, content, links, close: () => closing.abort() };
}

async function countFlags(link, badge, signal) {
  const { body } = await read("orders", { query: { attention: "true", limit: MOST_COUNTED }, signal });
  const number = body.data.length;
  show(badge, body.next_cursor ? `${count(number)}+` : count(number), h("span", { class: "hidden" }, " orders"));
  if (number) link.append(badge);
  else badge.remove();
}

function render() {
  leaving?.abort();
  leaving = new AbortController();
  document.querySelectorAll("dialog").forEach((dialog) => dialog.close());
  if (!tokenOf()) return askForToken(reason);
  reason = "";
  frame ??= openFrame();
  const place = placeOf();
  for (const [name, link] of Object.entries(frame.links)) {
    if (name === place.name) link.setAttribute("aria-current", place.id ? "true" : "page");
    else link.removeAttribute("aria-current");
  }
  const [title, screen] = SCREENS[place.name];
  const element = place.name === "orders" && place.id ? orderScreen(place.id, leaving.signal) : screen(place.query, leaving.signal);
  document.title = `${title} · Order Ledger`;
  const kept = document.activeElement?.getAttribute("data-keep");
  show(frame.content, element);
  if (!shownBefore || !kept) window.scrollTo(0, 0);
  if (shownBefore) {
    const same = kept && frame.main.querySelector(`[data-keep="${kept}"]`);
    (same || frame.main).focus({ preventScroll: true });
    announce(title);
  }
  shownBefore = true;
  return undefined;
}

function askForToken(why) {
  reason = why;
  leaving?.abort();
  frame?.close();
  frame = null;
  document.querySelectorAll("dialog").forEach((dialog) => dialog.remove());
  document.title = "Sign in · Order Ledger";
  show(app, signInScreen(why, render), h("div", { class: "toasts" }));
}

whenSignedOut(askForToken);
window.addEventListener("hashchange", render);
listenToKeys();
render();
