/** What changed between two versions of an order. Pure: two orders in, a list out. */

// Not shown: they change with every event, or are no part of the version.
const QUIET = new Set(["version", "updated_at", "contact", "order_id"]);

/** [{path, before, after}], in the order of the members; `before` or `after` is undefined where there is nothing. */
export function differences(before, after) {
  return [...compared("", before ?? {}, after)];
}

function* compared(path, before, after) {
  const names = [...new Set([...Object.keys(after ?? {}), ...Object.keys(before ?? {})])];
  for (const name of names) {
    if (path === "" && QUIET.has(name)) continue;
    const [one, other] = [before?.[name], after?.[name]];
    const here = path ? `${path}.${name}` : name;
    if (Array.isArray(one ?? other)) yield* comparedRows(here, one ?? [], other ?? []);
    else if (isObject(one) || isObject(other)) yield* compared(here, one ?? {}, other ?? {});
    else if (one !== other && !(blank(one) && blank(other))) yield { path: here, before: one, after: other };
  }
}

function isObject(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

function blank(value) {
  return value === null || value === undefined;
}

// By what a row of a list is the same row in another version.
function keyOf(list, row) {
  if (list === "lines") return `${row.service} ${row.sku}`;
  if (list === "shipments") return `parcel ${row.number}`;
  if (list === "attention") return row.obligation_key;
  return JSON.stringify(row);
}

function* comparedRows(list, before, after) {
  const old = new Map(before.map((row) => [keyOf(list, row), row]));
  for (const row of after) {
    const key = keyOf(list, row);
    if (!old.has(key)) yield { path: list, row: key, before: undefined, after: row };
    else for (const change of compared("", old.get(key), row)) yield { ...change, path: `${list}.${change.path}`, row: key };
    old.delete(key);
  }
  for (const [key, row] of old) yield { path: list, row: key, before: row, after: undefined };
}
