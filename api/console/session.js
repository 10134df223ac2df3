/** The user's token. In memory; in this tab's session storage if the user wishes. Never in a cookie, an address or another tab. */

const NAME = "order-ledger.token";
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
