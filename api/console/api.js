/**
 * The HTTP API, as `/openapi.json` describes it. Every request of the console goes through here, with the user's token in
 * `Authorization`, without cookies.
 */

import { signOut, tokenOf } from "./session.js";

export const ORDER_ID = /^ord_[a-z2-7]{26}$/;

const ROOT = new URL("../", import.meta.url);
const READ_TRIES = 4;
const DECISION_S = 10; // `Prefer: wait`, the most that the API allows
const PATIENCE_MS = 60_000; // with a command that was answered with 202
const ANSWER_MS = 60_000; // the ledger answers within 10 s; after this the connection is gone, though nobody said so
const OF_PROCESS = new Set(["ready", "metrics"]); // their answers say nothing about the age of what was read

/** An answer that is a problem (RFC 9457). `body` has all of its members. */
export class Problem extends Error {
  constructor(status, body, requestId) {
    super(body.title ?? `Status ${status}`);
    Object.assign(this, { status, body, requestId, code: body.code ?? "", detail: body.detail ?? "" });
  }
}

/** No answer: whether a command was carried out is unknown. A retry with the same key is safe. */
export class NoAnswer extends Error {}

let aged = () => {};
const sentWith = new WeakMap(); // response -> token: a late answer to an earlier token says nothing about this one
const positions = new Map(); // order id -> `Ledger-Position` after its last command or event: another node may be behind

/** Call `listener(ms)` after each read: how old its answer may be. */
export function whenRead(listener) {
  aged = listener;
}

/** An event was heard: what is read about `orderId` from now on includes it, whichever node answers. */
export function heardOf(orderId, { partition, offset }) {
  if (Number.isInteger(offset)) positions.set(orderId, `${partition}-${offset + 1}`);
}

/** The log is another one, or its place is unknown: nothing is waited for. */
export function forgetPosition(orderId) {
  positions.delete(orderId);
}

function headersFor(more) {
  const headers = new Headers({ Authorization: `Bearer ${tokenOf()}` });
  for (const [name, value] of Object.entries(more)) if (value !== null && value !== undefined) headers.set(name, value);
  return headers;
}

async function send(path, options) {
  const token = tokenOf();
  try {
    const common = { credentials: "omit", cache: "no-store", referrerPolicy: "no-referrer" };
    const response = await fetch(new URL(path, ROOT), { ...common, ...options });
    sentWith.set(response, token);
    return response;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new NoAnswer("The server does not answer.");
  }
}

/** A signal that aborts with `signal`, or when no answer can be expected any more. A timeout is no `AbortError`. */
function inTime(signal) {
  return AbortSignal.any([AbortSignal.timeout(ANSWER_MS), ...(signal ? [signal] : [])]);
}

/** The text of an answer. Raises `NoAnswer` if the connection ends before it does. */
async function textOf(response) {
  try {
    return await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new NoAnswer("The answer broke off.");
  }
}

/** The JSON of an answer. Raises `NoAnswer` if it is cut off, or not from the ledger. */
async function jsonOf(response) {
  try {
    return JSON.parse(await textOf(response));
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw new NoAnswer("The answer is not from the ledger; a proxy may have given it.");
  }
}

async function problemOf(response) {
  const text = await textOf(response);
  let body;
  try {
    body = JSON.parse(text);
  } catch {
    body = { title: `Status ${response.status}`, detail: "The answer is not from the ledger; a proxy may have given it." };
  }
  const problem = new Problem(response.status, body, response.headers.get("Request-Id"));
  if (response.status === 401 && sentWith.get(response) === tokenOf()) signOut(problem.detail || "The token is not valid any more.");
  return problem;
}

/** Wait, unless `signal` aborts it. */
export function pause(ms, signal) {
  return new Promise((done, failed) => {
    const aborted = () => {
      clearTimeout(timer);
      failed(new DOMException("", "AbortError"));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", aborted);
      done();
    }, ms);
    if (signal?.aborted) aborted();
    else signal?.addEventListener("abort", aborted, { once: true });
  });
}

/** What a list or order is asked for: `query` has no entry for what is empty. */
export function addressOf(path, query = {}) {
  const wanted = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined && value !== false);
  return wanted.length ? `${path}?${new URLSearchParams(wanted)}` : path;
}

/**
 * The JSON (or, with `accept`, the text) of a GET. Repeats it while the node is behind or busy (429, 503), as often as is
 * reasonable. Raises `Problem`, `NoAnswer`.
 */
export async function read(path, { query, signal, accept = "application/json", orderId } = {}) {
  for (let left = READ_TRIES; ; left -= 1) {
    const headers = headersFor({ Accept: accept, "Ledger-Position": positions.get(orderId) });
    const response = await send(addressOf(path, query), { headers, signal: inTime(signal) });
    if (response.ok || (path === "ready" && response.status === 503)) {
      if (!OF_PROCESS.has(path)) aged(Number(response.headers.get("Ledger-Staleness-Ms") ?? 0));
      return { body: await (accept === "application/json" ? jsonOf : textOf)(response) };
    }
    const problem = await problemOf(response);
    if (problem.code === "not-caught-up" && left === 1) positions.delete(orderId); // the next try shows what this node has
    if (left === 1 || ![429, 503].includes(response.status)) throw problem;
    await pause(1000 * Math.min(10, Number(response.headers.get("Retry-After") ?? 1)), signal);
  }
}

/** A fresh idempotency key. */
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return `console-${[...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

/**
 * Send a command about an order and wait for its outcome. Returns {order, outcome, replayed}; `outcome` is `changed` or
 * `unchanged`, `order` null after a 204 or a 202. `waiting()` is called when the command is durable, but not decided yet.
 * Raises `Problem` (a refusal is one) and `NoAnswer`.
 */
export async function command(method, path, { orderId, body, key, version, waiting = () => {} }) {
  const headers = headersFor({
    "Idempotency-Key": key,
    "If-Match": version === null || version === undefined ? null : `"${version}"`,
    "Content-Type": body === undefined ? null : "application/json",
    Prefer: `wait=${DECISION_S}`,
  });
  const sent = { method, headers, body: body === undefined ? undefined : JSON.stringify(body), signal: inTime() };
  const response = await send(path, sent);
  const position = response.headers.get("Ledger-Position"); // of a refusal as well: what it is about may be new
  if (position) positions.set(orderId, position);
  if (!response.ok) throw await problemOf(response);
  if (response.status === 202) {
    waiting();
    return decided(response.headers.get("Location"), orderId);
  }
  return {
    order: response.status === 204 ? null : await jsonOf(response),
    outcome: response.headers.get("Ledger-Outcome") ?? "changed",
    replayed: response.headers.get("Idempotency-Replayed") === "true",
  };
}

async function decided(location, orderId) {
  const until = Date.now() + PATIENCE_MS;
  while (Date.now() < until) {
    const { body } = await read(location.replace(/^\//, ""), { orderId });
    if (body.state === "refused") throw new Problem(body.problem.status, body.problem, null);
    if (body.state === "accepted") return { order: null, outcome: "changed", replayed: false }; // the page reads it anyway
    await pause(500);
  }
  throw new NoAnswer("The command is durable, but nothing has decided it for a minute.");
}

/** How people log in at an issuer (`/console/config.json`), if they can. Needs no token. Raises `Problem`, `NoAnswer`. */
export async function loginOffered() {
  const response = await send("console/config.json", { headers: { Accept: "application/json" } });
  if (!response.ok) throw await problemOf(response);
  const { login } = await jsonOf(response);
  return login?.authorization_endpoint && login?.token_endpoint ? login : null;
}

/** The issuer's answer to a form, as {ok, status, body}. It gets the form and nothing else. Raises `NoAnswer`. */
export async function askIssuer(address, form) {
  const options = { method: "POST", body: form, credentials: "omit", cache: "no-store", referrerPolicy: "no-referrer" };
  const response = await fetch(address, options).catch(() => {
    throw new NoAnswer("The issuer does not answer this page.");
  });
  return { ok: response.ok, status: response.status, body: await response.json().catch(() => ({})) };
}

/** The response of a stream of server-sent events. Raises `Problem`, `NoAnswer`. */
export async function openStream(path, { query, last, signal }) {
  const headers = headersFor({ Accept: "text/event-stream", "Last-Event-ID": last || null });
  const response = await send(addressOf(path, query), { headers, signal });
  if (!response.ok) throw await problemOf(response);
  return response;
}
