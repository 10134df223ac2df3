/** The screen that asks for a token, or leads to the issuer that gives one. A token is tried before it is kept. */

import { loginOffered, Problem, read } from "./api.js";
import { h, show } from "./dom.js";
import { beginLogin, finishLogin, returned } from "./login.js";
import { signIn } from "./session.js";
import { failure } from "./toasts.js";

/** `why`: why the last token is not used any more; `done()` is called with a token that works. */
export function signInScreen(why, done) {
  const before = h("div", { class: "message warn", role: "alert" }, h("strong", null, "The token is not accepted"), h("span", null, why));
  const said = h("div", null, why && before);
  const field = h("input", { type: "password", name: "token", required: true, autocomplete: "current-password", spellcheck: "false" });
  const keep = h("input", { type: "checkbox", checked: true });
  const button = h("button", { class: "button primary" }, "Sign in");

  async function tried(event) {
    event.preventDefault();
    const token = field.value.trim().replace(/^Bearer\s+/i, "");
    if (!/^[\x21-\x7e]+$/.test(token)) return field.focus();
    button.disabled = true;
    show(said);
    return use(token, keep.checked);
  }

  async function use(token, untilClosed) {
    signIn(token, untilClosed);
    try {
      await read("orders", { query: { limit: 1 } });
      done();
    } catch (error) {
      if (error instanceof Problem && error.status === 401) return; // this screen was shown again, and says why
      signIn(null, false);
      show(said, wrongRole(error) ?? failure(error));
      button.disabled = false;
    }
    return undefined;
  }

  const issuers = h("div", { class: "issuer", hidden: true });
  const form = h(
    "form",
    { onsubmit: tried },
    h("div", { class: "brand" }, h("img", { src: "console/icon.svg", alt: "" }), "Order Ledger"),
    h("div", null, h("h1", null, "Sign in"), h("p", { class: "muted" }, "With the token of the shop's staff.")),
    said,
    issuers,
    h("label", { class: "field" }, h("span", null, "Token"), field),
    h("label", { class: "check" }, keep, "Keep it until this tab is closed"),
    button,
  );
  requestAnimationFrame(() => field.focus());
  offerLogin(issuers, said, use);
  return h("main", { class: "sign-in" }, form);
}

/** Show the button of the issuer, if there is one; after a return from it, finish the login with `use(token, untilClosed)`. */
async function offerLogin(place, said, use) {
  const back = returned();
  try {
    const login = await loginOffered();
    if (login === null) return;
    const begin = () => beginLogin(login).catch((error) => show(said, failure(error)));
    const name = new URL(login.issuer).host;
    show(place, h("button", { type: "button", class: "button primary", onclick: begin }, `Log in at ${name}`), h("p", { class: "muted small" }, "or"));
    place.hidden = false;
    if (back === null) return;
    place.querySelector("button").disabled = true;
    await use(await finishLogin(login, back), true);
  } catch (error) {
    show(said, failure(error));
    place.querySelector("button")?.removeAttribute("disabled");
  }
}

/** What to say to a token that is valid, but not for staff. */
function wrongRole(error) {
  if (!(error instanceof Problem) || !["customer-required", "forbidden"].includes(error.code)) return null;
  const text = "It is valid, but its role is not one of a desk: it must be admin, or reader, which shows everything but contacts and changes nothing.";
  return h("div", { class: "message bad", role: "alert" }, h("strong", null, "This token cannot be used here"), h("span", null, text));
}

