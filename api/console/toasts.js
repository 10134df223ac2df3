/** Short messages at the edge of the screen, and problems in words. */

import { announce, h, own } from "./dom.js";
import { NoAnswer, Problem } from "./api.js";
import { LoginFailed } from "./login.js";

const SHOWN_MS = 6_000;

/** Say that something was done. */
export function toast(text) {
  const box = document.querySelector(".toasts");
  const one = h("div", { class: "toast" }, text);
  box?.append(one);
  announce(text);
  setTimeout(() => one.remove(), SHOWN_MS);
}

/** Say something that must not be missed: it stays until it is closed. */
export function notice(strong, text) {
  const close = h("button", { type: "button", class: "button plain small", onclick: () => one.remove() }, "Close");
  const one = h("div", { class: "toast notice", role: "alert" }, h("strong", null, strong), h("span", null, own(text)), close);
  document.querySelector(".toasts")?.append(one);
}

/** An error as a message that stays. `retry` is a function, or nothing. */
export function failure(error, retry) {
  const { title, text, more } = wordsOf(error);
  return h(
    "div",
    { class: "message bad", role: "alert" },
    h("strong", null, title),
    h("span", null, own(text)),
    more && h("span", { class: "small muted" }, more),
    retry && h("div", { class: "row" }, h("button", { type: "button", class: "button", onclick: retry }, "Try again")),
  );
}

function wordsOf(error) {
  if (error instanceof Problem) {
    const id = error.requestId ? `, request ${error.requestId}` : "";
    const places = (error.body.errors ?? []).map((one) => `${one.pointer || "/"}: ${one.code}`).join(", ");
    return { title: error.message, text: [error.detail, places].filter(Boolean).join(" "), more: `${error.status} ${error.code}${id}` };
  }
  if (error instanceof NoAnswer) return { title: "No answer", text: error.message };
  if (error instanceof LoginFailed) return { title: "You are not logged in", text: error.message };
  console.error(error);
  return { title: "The console has a fault", text: `${error.name}: ${error.message}` };
}
