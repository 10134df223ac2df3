/** The user's token. In memory; in this tab's session storage if the user wishes. Never in a cookie, an address or another tab. */

const NAME = "order-ledger.token";
const LOGIN = "order-ledger.login"; // only while the person is at the issuer
let token = sessionStorage.getItem(NAME);
let lost = () => {};

export function tokenOf() {
  return token;
}

/** Keep a token. `untilClosed`: it survives a reload of the tab. */
export function signIn(text, untilClosed) {
  token = text;
  if (untilClosed) sessionStorage.setItem(NAME, text);
  else sessionStorage.removeItem(NAME);
}

/** Forget the token. `why` is shown on the screen that asks for the next one. */
export function signOut(why = "") {
  token = null;
  sessionStorage.removeItem(NAME);
  lost(why);
}

/** Call `listener(why)` whenever there is no token any more. */
export function whenSignedOut(listener) {
  lost = listener;
}

/** Keep what a login began with until the person is back in this tab. */
export function keepLogin(pending) {
  sessionStorage.setItem(LOGIN, JSON.stringify(pending));
}

/** What the login of this tab began with, once; null if none was begun. */
export function takeLogin() {
  const kept = sessionStorage.getItem(LOGIN);
  sessionStorage.removeItem(LOGIN);
  return kept ? JSON.parse(kept) : null;
}
