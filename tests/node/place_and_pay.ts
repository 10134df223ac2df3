// A client whose types are generated from the OpenAPI document: places an order, pays it at the sandbox, waits until it is paid.
// Arguments: URL of the API, token of a gateway, URL of the sandbox, its publishable key. Prints the order as JSON.
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

declare const process: { argv: string[] };
const [url, token, sandbox, publishableKey] = process.argv.slice(2) as [string, string, string, string];
const api = createClient<paths>({ baseUrl: url, headers: { Authorization: `Bearer ${token}` } });
const customer = { "Customer-Id": "typescript" };
const run = Date.now().toString(36);

const order: components["schemas"]["PlaceOrder"] = {
  currency: "EUR",
  total_minor: 2490,
  lines: [{ service: "product", sku: "espresso-1kg", name: "Espresso 1 kg", quantity: 1, unit_price_minor: 2490 }],
  contact: {
    name: "Ada Example",
    email: "ada@example.org",
    shipping_address: { line1: "1 Mill Lane", city: "Leeds", postcode: "LS1 1AA", country: "GB" },
  },
};

async function until<T>(what: string, ask: () => Promise<T | undefined>): Promise<T> {
  for (const deadline = Date.now() + 100_000; Date.now() < deadline; await new Promise((done) => setTimeout(done, 50))) {
    const found = await ask();
    if (found !== undefined) return found;
  }
  throw new Error(`no ${what}`);
}

const placed = await until("order", async () => {
  const header = { ...customer, "Idempotency-Key": `order-${run}`, Prefer: "wait=10" };
  const { data, error } = await api.POST("/orders", { params: { header }, body: order });
  if (error !== undefined && error.status !== 503) throw new Error(`${error.code}: ${error.detail}`);
  return data !== undefined && "lines" in data ? data : undefined;
});
const path = { order_id: placed.order_id };

const payment = await until("payment", async () => {
  const header = { ...customer, "Idempotency-Key": `payment-${run}`, Prefer: "wait=10" };
  const body = { total_minor: placed.total_minor, currency: placed.currency };
  const { data, error } = await api.POST("/orders/{order_id}/payment", { params: { path, header }, body });
  if (error !== undefined && error.status !== 503) throw new Error(`${error.code}: ${error.detail}`);
  return data !== undefined && "client_secret" in data ? data : undefined;
});
if (payment.client_secret === null) throw new Error("the payment has no secret");

// What Stripe.js does in the customer's browser.
const confirmed = await fetch(`${sandbox}/v1/payment_intents/${payment.provider_ref}/confirm`, {
  method: "POST",
  headers: { Authorization: `Bearer ${publishableKey}` },
  body: new URLSearchParams({
    client_secret: payment.client_secret,
    "payment_method_data[type]": "card",
    "payment_method_data[card][number]": "4242424242424242",
  }),
});
if (!confirmed.ok) throw new Error(await confirmed.text());

const paid = await until("paid order", async () => {
  const { data, error } = await api.GET("/orders/{order_id}", { params: { path, header: customer } });
  if (error !== undefined && error.status !== 503) throw new Error(`${error.code}: ${error.detail}`);
  return data?.status === "paid" ? data : undefined;
});
console.log(JSON.stringify(paid));
