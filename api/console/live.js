/**
 * Server-sent events with a token (`EventSource` cannot send one), and reading again where there is no stream. Both resume by
 * themselves when the server comes back, and say whether they are connected.
 */

import { NoAnswer, openStream, pause, Problem } from "./api.js";

const FIRST_MS = 500;
const MOST_MS = 15_000;
const SILENT_MS = 60_000; // the server sends a comment every 15 s: the connection is gone, though nobody said so

/**
 * Messages of an event stream, as {id, event, data}; `arrived()` is called for whatever arrives. Lines are as the HTML standard has
 * them.
 */
export async function* messages(response, arrived = () => {}) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let partial = "";
  let message = { data: [] };
  for (;;) {
    const { value, done } = await reader.read().catch(broken);
    if (done) return;
    arrived();
    const lines = (partial + value).split(/\r\n|\n|\r/);
    partial = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (message.data.length) yield { id: message.id, event: message.event, data: message.data.join("\n") };
        message = { data: [] };
      } else if (!line.startsWith(":")) {
        const [name, text] = fieldOf(line);
        if (name === "data") message.data.push(text);
        else if (name === "id" || name === "event") message[name] = text;
      }
    }
  }
}

/** [name, value] of a line, whatever characters its value has. */
function fieldOf(line) {
  const at = line.indexOf(":");
  return at < 0 ? [line, ""] : [line.slice(0, at), line.slice(line[at + 1] === " " ? at + 2 : at + 1)];
}

function broken(error) {
  if (error.name === "AbortError") throw error;
  throw new NoAnswer("The stream broke off.");
}

function isOfNetwork(error) {
  return error instanceof NoAnswer || error instanceof Problem;
}

/**
 * Follow a stream until `signal` aborts: `heard(message)` for each message, `state("live" | "waiting")` when that changes. `last` is
 * the id after which to begin; without it, `query` says where. If the server no longer knows `last`, `lost()` is called, and the
 * stream begins where `query` says. What no retry mends (a token that expired, an order that is gone) ends it, with `state("ended")`.
 */
export async function follow(path, { query, last, signal, heard, state, lost = () => {} }) {
  let wait = FIRST_MS;
  while (!signal.aborted) {
    const line = lineUntil(signal);
    try {
      const response = await openStream(path, { query, last, signal: line.signal });
      state("live");
      for await (const message of messages(response, line.arrived)) {
        wait = FIRST_MS;
        last = message.id ?? last;
        receive(heard, message);
      }
    } catch (error) {
      if (signal.aborted) return;
      if (last && error instanceof Problem && error.code === "invalid-cursor") {
        last = undefined;
        lost();
      } else if (!canBeRepeated(error)) {
        report(error);
        state("ended");
        return;
      }
    } finally {
      line.release();
    }
    state("waiting");
    await pause(wait * (0.75 + Math.random() / 2), signal).catch(() => {});
    wait = Math.min(MOST_MS, wait * 2);
  }
}

/** A message that the page cannot take costs no other one. */
function receive(heard, message) {
  try {
    heard(message);
  } catch (error) {
    console.error(error);
  }
}

function canBeRepeated(error) {
  if (error instanceof Problem) return error.status === 429 || error.status >= 500;
  return error instanceof NoAnswer || error.name === "AbortError";
}

/** A signal that aborts with `outer`, when the browser goes offline, and after `SILENT_MS` without `arrived()`. */
function lineUntil(outer) {
  const line = new AbortController();
  const cut = () => line.abort();
  let timer = setTimeout(cut, SILENT_MS);
  outer.addEventListener("abort", cut);
  window.addEventListener("offline", cut);
  return {
    signal: line.signal,
    arrived() {
      clearTimeout(timer);
      timer = setTimeout(cut, SILENT_MS);
    },
    release() {
      clearTimeout(timer);
      outer.removeEventListener("abort", cut);
      window.removeEventListener("offline", cut);
    },
  };
}

/**
 * Call `work()` now, and again `every` ms after it ended, while the page is visible and until `signal` aborts. It waits longer after
 * each failure; `state` is as for `follow`, and `failed(error)` gets the first failure in a row.
 */
export async function repeat(work, { every, signal, state = () => {}, failed = report }) {
  let wait = every;
  let failures = 0;
  while (!signal.aborted) {
    if (!document.hidden) {
      try {
        await work();
        failures = 0;
        wait = every;
        state("live");
      } catch (error) {
        if (signal.aborted) return;
        failures += 1;
        wait = Math.min(MOST_MS, every * 2 ** failures);
        state("waiting");
        if (failures === 1) failed(error);
      }
    }
    await Promise.race([pause(wait, signal), visible(signal)]).catch(() => {});
  }
}

/** What the network or the server did is nothing to report; anything else is a fault of the page. */
function report(error) {
  if (!isOfNetwork(error)) console.error(error);
}

function visible(signal) {
  return new Promise((done) => {
    const options = { signal, once: true };
    if (document.hidden) document.addEventListener("visibilitychange", done, options);
  });
}

/**
 * Call `work()` now, again `after` ms or more after the last call whenever it was asked for, and again after each failure, while the
 * page is visible and until `signal` aborts. Returns what asks. `failed(error)` gets the first failure in a row.
 */
export function whenAsked(work, { after, signal, failed }) {
  let failures = 0;
  let wake = () => {};
  let isAsked = true;
  async function run() {
    while (!signal.aborted) {
      if (!isAsked) await new Promise((done) => (wake = done));
      if (document.hidden) await visible(signal);
      isAsked = false;
      try {
        await work();
        failures = 0;
      } catch (error) {
        if (signal.aborted) return;
        failures += 1;
        isAsked = true;
        if (failures === 1) failed(error);
      }
      await pause(Math.min(MOST_MS, after * 2 ** failures), signal).catch(() => {});
    }
  }
  signal.addEventListener("abort", () => wake(), { once: true });
  run();
  return () => {
    isAsked = true;
    wake();
  };
}

/** A mark that says whether what is shown is current. Returns [element, state function]. */
export function liveMark(element) {
  const words = {
    live: "Live",
    waiting: "Not connected. What you see may be old.",
    ended: "Not live any more. Reload the page to see what is new.",
  };
  return (state) => {
    element.className = `live ${state}`;
    element.textContent = words[state];
  };
}
