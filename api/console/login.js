/**
 * Logging in at the issuer that the ledger trusts: the authorisation code flow with PKCE (RFC 7636), for a client without a secret.
 * What the issuer gives is a token like any other: the ledger checks it, and when it expires, the person logs in again.
 */

import { askIssuer } from "./api.js";
import { keepLogin, takeLogin } from "./session.js";

const VERIFIER_BYTES = 32;

/** The person is not logged in; the text says why. */
export class LoginFailed extends Error {}

/** Leave for the issuer. `login` is that of `config.json`. Raises `LoginFailed`. */
export async function beginLogin(login) {
  if (!globalThis.crypto?.subtle) throw new LoginFailed("A login needs https, or an address of this machine.");
  const verifier = randomText();
  const state = randomText();
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(verifier));
  const address = new URL(login.authorization_endpoint);
  const parameters = {
    ...login.parameters,
    response_type: "code",
    client_id: login.client_id,
    redirect_uri: redirectAddress(),
    scope: login.scopes,
    state,
    code_challenge: base64url(new Uint8Array(digest)),
    code_challenge_method: "S256",
  };
  for (const [name, value] of Object.entries(parameters)) address.searchParams.set(name, value);
  keepLogin({ state, verifier, place: location.hash });
  location.assign(address.href);
}

/**
 * Whether this page was opened by the issuer. Then the address loses what the issuer added, and `{answer, pending}` is returned, for
 * `finishLogin`; otherwise null.
 */
export function returned() {
  const answer = new URLSearchParams(location.search);
  if (!answer.has("state") || !(answer.has("code") || answer.has("error"))) return null;
  const pending = takeLogin();
  history.replaceState(null, "", location.pathname + (pending?.place ?? ""));
  return { answer, pending };
}

/** The token for what the issuer answered. Raises `NoAnswer`, `LoginFailed`. */
export async function finishLogin(login, { answer, pending }) {
  if (pending === null || pending.state !== answer.get("state")) throw new LoginFailed("This login was not begun in this tab. Try again.");
  if (answer.has("iss") && answer.get("iss") !== login.issuer) throw new LoginFailed("Another issuer answered. Try again.");
  if (answer.has("error")) throw new LoginFailed(`The issuer did not log you in (${word(answer.get("error"))}).`);
  const body = new URLSearchParams({
    grant_type: "authorization_code",
    code: answer.get("code"),
    redirect_uri: redirectAddress(),
    client_id: login.client_id,
    code_verifier: pending.verifier,
  });
  const { ok, status, body: answered } = await askIssuer(login.token_endpoint, body);
  if (!ok || typeof answered.access_token !== "string") {
    throw new LoginFailed(`The issuer gave no token (${word(answered.error ?? String(status))}).`);
  }
  return answered.access_token;
}

/** Where the issuer sends the person back: it must be registered there. */
function redirectAddress() {
  return location.origin + location.pathname;
}

/** A code of OAuth, or a question mark for anything else. */
function word(text) {
  return /^[a-z0-9_]{1,40}$/.test(text) ? text : "?";
}

function randomText() {
  return base64url(crypto.getRandomValues(new Uint8Array(VERIFIER_BYTES)));
}

function base64url(bytes) {
  return btoa(String.fromCharCode(...bytes))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replace(/=+$/, "");
}
