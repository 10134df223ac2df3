/** Money, times and numbers, as the reader's language writes them. */

import { h } from "./dom.js";

// Digits of the minor unit, as in ISO 4217, where they are not two. `Intl` has others for some currencies.
export const DIGITS = {
  0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
  3: "BHD IQD JOD KWD LYD OMR TND",
  4: "CLF UYW",
};
const digitsOf = new Map(Object.entries(DIGITS).flatMap(([digits, codes]) => codes.split(" ").map((code) => [code, Number(digits)])));
const formats = new Map();

/** Decimal digits of the minor unit of `currency`. */
export function digits(currency) {
  return digitsOf.get(currency) ?? 2;
}

/** An amount of minor units, such as 1234 EUR as €12.34. */
export function money(minor, currency) {
  if (!formats.has(currency)) {
    const exact = { minimumFractionDigits: digits(currency), maximumFractionDigits: digits(currency) };
    formats.set(currency, new Intl.NumberFormat(undefined, { style: "currency", currency, ...exact }));
  }
  return formats.get(currency).format(minor / 10 ** digits(currency));
}

/** The minor units of what a person typed, such as "12,5" for EUR; null if that is no amount, or has too many digits. */
export function minorOf(text, currency) {
  const match = /^(\d{1,12})(?:[.,](\d*))?$/.exec(text.trim());
  const places = digits(currency);
  if (!match || (match[2] ?? "").length > places) return null;
  return Number(match[1]) * 10 ** places + Number((match[2] ?? "").padEnd(places, "0") || 0);
}

/** Minor units as a person types them: 1234 EUR as 12.34. */
export function typed(minor, currency) {
  return (minor / 10 ** digits(currency)).toFixed(digits(currency));
}

const counting = new Intl.NumberFormat();
const compact = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const short = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const dayOnly = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", timeZone: "UTC" });

export function count(number) {
  return counting.format(number);
}

/** A number for an axis: 12,300 as 12.3K. */
export function brief(number) {
  return compact.format(number);
}

/** A time of the API, in the reader's zone; the title has it in full, and in UTC. */
export function time(at, long = false) {
  const date = new Date(at);
  return h("time", { datetime: at, title: `${full.format(date)} (${at})` }, (long ? full : short).format(date));
}

/** A UTC day, such as 31 Jan. */
export function day(text) {
  return dayOnly.format(new Date(`${text}T00:00:00Z`));
}

export const FIRST_DAY = "1970-01-01"; // on which an order can have been placed

/** The UTC day of a date, as the API writes it. */
export function dayOf(date) {
  return date.toISOString().slice(0, 10);
}

const STEPS = [
  [86_400, "day"],
  [3_600, "hour"],
  [60, "minute"],
  [1, "second"],
];

/** How long ago, or until: one unit, such as "3 hours". */
export function span(ms) {
  const seconds = Math.max(1, Math.round(Math.abs(ms) / 1000));
  const [size, name] = STEPS.find(([unit]) => seconds >= unit);
  const number = Math.floor(seconds / size);
  return `${count(number)} ${name}${number === 1 ? "" : "s"}`;
}

/** Since a time of the API, as an element. */
export function since(at) {
  return h("time", { datetime: at, title: full.format(new Date(at)) }, span(Date.now() - new Date(at)));
}
