/** The text format of Prometheus, as `/metrics` answers it. Pure. */

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/s;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/gs;

/** Samples by name: Map of name to [{labels, value}]. */
export function samples(text) {
  const byName = new Map();
  for (const line of text.split("\n")) {
    if (!line || line.startsWith("#")) continue;
    const match = LINE.exec(line);
    if (!match) continue;
    const labels = Object.fromEntries([...(match[2] ?? "").matchAll(LABEL)].map(([, name, value]) => [name, unescaped(value)]));
    const value = match[3] === "+Inf" ? Infinity : Number(match[3]);
    if (!byName.has(match[1])) byName.set(match[1], []);
    byName.get(match[1]).push({ labels, value });
  }
  return byName;
}

function unescaped(text) {
  return text.replace(/\\(.)/gs, (_, char) => (char === "n" ? "\n" : char));
}

/** The value of a metric without labels; null if there is none. */
export function single(byName, name) {
  return byName.get(name)?.[0]?.value ?? null;
}

/** Values of a metric by one of its labels. */
export function by(byName, name, label) {
  return new Map((byName.get(name) ?? []).map((sample) => [sample.labels[label], sample.value]));
}
