/** Small charts in SVG. Each has a table of its numbers beside it, so the picture itself is hidden from screen readers. */

import { h, s } from "./dom.js";
import { brief, day } from "./format.js";

const WIDTH = 320;
const HEIGHT = 132;
const LEFT = 40;
const BOTTOM = 18;
const TOP = 8;

/** A number at which an axis ends: 1, 2 or 5 times a power of ten, at least `most`. */
export function roundUp(most) {
  if (most <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].find((step) => step * power >= most) * power;
}

/**
 * One bar a day. `rows`: [{day, value}] for every day, in their order; `shown(value)` is the text of a bar's tooltip, `kind` its
 * colour. Values below zero are drawn as nothing: the table has them.
 */
export function dailyBars(title, rows, shown, kind = "") {
  const top = roundUp(Math.max(...rows.map((row) => row.value)));
  const step = (WIDTH - LEFT) / rows.length;
  const high = HEIGHT - TOP - BOTTOM;
  const y = (value) => TOP + high * (1 - value / top);
  const bars = rows.map((row, index) => {
    const tall = Math.max(0, row.value);
    const box = { class: `bar ${kind}`, x: LEFT + index * step + step * 0.15, width: step * 0.7, rx: Math.min(2, step / 5) };
    const bar = s("rect", { ...box, y: y(tall), height: (high * tall) / top });
    bar.append(s("title", null, `${day(row.day)}: ${shown(row.value)}`));
    return bar;
  });
  const lines = [0, 0.5, 1].map((part) => [
    s("line", { class: "axis", x1: LEFT, x2: WIDTH, y1: y(top * part), y2: y(top * part) }),
    s("text", { x: LEFT - 6, y: y(top * part) + 4, "text-anchor": "end" }, top * part >= 1 || part === 0 ? brief(top * part) : ""),
  ]);
  const ends = [
    s("text", { x: LEFT, y: HEIGHT - 3 }, day(rows[0].day)),
    rows.length > 1 && s("text", { x: WIDTH, y: HEIGHT - 3, "text-anchor": "end" }, day(rows[rows.length - 1].day)),
  ];
  const picture = s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, "aria-hidden": "true" }, lines, bars, ends);
  return h("figure", { class: "card chart" }, h("figcaption", null, h("h3", null, title)), picture);
}

/** One line of a bar chart across: `value` of `most`. */
export function bar(value, most) {
  const width = most ? (100 * value) / most : 0;
  const box = { viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" };
  return s("svg", box, s("rect", { class: "bar", width, height: 6 }));
}
