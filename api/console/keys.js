/** Keys. Those of one character can be switched off (WCAG 2.1.4), and do nothing while somebody types. */

import { h } from "./dom.js";

const NAME = "order-ledger.keys";
const PLACES = { o: "orders", a: "attention", d: "day", s: "system" };
const FOLLOW_MS = 1_500;
const KEYS = [
  ["/", "find an order"],
  ["j, k", "next and previous row"],
  ["Enter", "open the row"],
  ["g, then o", "orders"],
  ["g, then a", "attention"],
  ["g, then d", "day"],
  ["g, then s", "system"],
  ["?", "this help"],
  ["Esc", "close a dialog"],
];
let going = 0;

function isOn() {
  return localStorage.getItem(NAME) !== "off";
}

/** Listen, for as long as the page is open. */
export function listenToKeys() {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !isOn() || document.querySelector("dialog[open]")) return;
    if (event.target.closest("input, select, textarea")) return;
    if (act(event.key)) event.preventDefault();
  });
}

function act(key) {
  const place = PLACES[key];
  if (place && Date.now() - going < FOLLOW_MS) {
    going = 0;
    location.hash = `#/${place}`;
    return true;
  }
  going = key === "g" ? Date.now() : 0;
  if (key === "j" || key === "k") return step(key === "j" ? 1 : -1);
  if (key === "?") return showHelp();
  if (key !== "/") return false;
  const field = document.querySelector("[data-find]");
  field?.focus();
  field?.select();
  return field !== null;
}

/** Move the focus to the next or previous link of a row. */
function step(by) {
  const links = [...document.querySelectorAll("a.row-link")];
  const at = links.indexOf(document.activeElement);
  const next = links[at < 0 ? (by > 0 ? 0 : links.length - 1) : at + by];
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
  return links.length > 0;
}

/** The dialog that lists the keys. */
export function showHelp() {
  const toggle = h("input", {
    type: "checkbox",
    checked: isOn(),
    onchange: () => localStorage.setItem(NAME, toggle.checked ? "on" : "off"),
  });
  const rows = KEYS.map(([key, meaning]) => [h("dt", null, h("kbd", { class: "mono" }, key)), h("dd", null, meaning)]);
  const close = h("button", { type: "button", class: "button", onclick: () => dialog.close() }, "Close");
  const dialog = h(
    "dialog",
    { "aria-labelledby": "keys-title", onclose: () => dialog.remove() },
    h(
      "div",
      { class: "body" },
      h("h2", { id: "keys-title" }, "Keys"),
      h("dl", { class: "facts" }, rows),
      h("label", { class: "check" }, toggle, "Use keys of one character"),
      h("div", { class: "foot" }, close),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
  return true;
}
