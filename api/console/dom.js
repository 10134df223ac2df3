/** Elements without a template language: text is always text, so nothing that a customer wrote is ever read as HTML. */

/**
 * An element. `attributes`: `class`, `dataset`, any attribute by name, and listeners (`onclick`). False and null are left out,
 * true is an empty attribute. `children`: nodes, texts, arrays of both; null and false are left out.
 */
export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

const SVG = "http://www.w3.org/2000/svg";

/** The same for an element of SVG. */
export function s(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  append(node, children);
  return node;
}

function append(node, children) {
  for (const child of children) {
    if (Array.isArray(child)) append(node, child);
    else if (child !== null && child !== undefined && child !== false) node.append(child);
  }
}

/** Replace all children of `node`. */
export function show(node, ...children) {
  node.replaceChildren();
  append(node, children);
}

/**
 * Replace all children of `nodes`, [[node, ...children], ...], with newer ones. The focus stays on the element with the same
 * `data-keep`, in whichever node it is now, and boxes with one keep how far they are scrolled sideways.
 */
export function showAgain(...nodes) {
  const named = () => nodes.flatMap(([node]) => [...node.querySelectorAll("[data-keep]")]);
  const keeper = document.activeElement?.closest("[data-keep]");
  const focused = keeper && nodes.some(([node]) => node.contains(keeper)) ? keeper.getAttribute("data-keep") : null;
  const scrolled = new Map(named().map((one) => [one.getAttribute("data-keep"), one.scrollLeft]));
  for (const [node, ...children] of nodes) show(node, ...children);
  for (const one of named()) {
    const name = one.getAttribute("data-keep");
    if (scrolled.get(name)) one.scrollLeft = scrolled.get(name);
    if (name === focused) one.focus({ preventScroll: true });
  }
}

/** Text of a person or a shop, whose direction is its own: isolated from the text around it. */
export function own(text) {
  return h("bdi", { dir: "auto" }, text);
}

/** Say something to screen readers, without moving the focus. */
export function announce(text) {
  document.getElementById("announcer").textContent = text;
}

const ICONS = {
  orders: "M4 5h12M4 10h12M4 15h7",
  attention: "M10 3 2.5 16.5h15L10 3Zm0 5v4m0 2.4v.1",
  day: "M4 16V9m4 7V4m4 12v-5m4 5V7",
  system: "M4 4h12v5H4zM4 11h12v5H4zM7 6.5h.01M7 13.5h.01",
};

/** An icon; decoration, the text beside it says the same. */
export function icon(name) {
  const line = { d: ICONS[name], fill: "none", stroke: "currentColor", "stroke-width": 1.6, "stroke-linecap": "round", "stroke-linejoin": "round" };
  return s("svg", { viewBox: "0 0 20 20", "aria-hidden": "true" }, s("path", line));
}

/** A message in the place of content: `strong` says what is so, `text` what to do. */
export function empty(strong, text, ...more) {
  return h("div", { class: "empty" }, h("strong", null, strong), text && h("span", null, text), more);
}
