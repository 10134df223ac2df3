-- Postgres: the tables that orders.sql keeps. Amounts are minor units of the currency, times milliseconds since the epoch.

CREATE TABLE orders (
  order_id        text   PRIMARY KEY,
  version         int    NOT NULL,
  type            text   NOT NULL,  -- of the latest event, as everything below
  occurred_at     bigint NOT NULL,
  status          text   NOT NULL,
  payment_state   text   NOT NULL,
  customer_id     text   NOT NULL,
  currency        text   NOT NULL,
  total_minor     bigint NOT NULL,
  captured_minor  bigint NOT NULL,
  refunded_minor  bigint NOT NULL,
  actor           text   NOT NULL,
  command_id      text   NOT NULL
);
CREATE INDEX orders_by_customer ON orders (customer_id, occurred_at);
CREATE INDEX orders_by_status ON orders (status, occurred_at);

-- The lines as ordered, in their order. They never change.
CREATE TABLE order_lines (
  order_id         text   NOT NULL,
  line             int    NOT NULL,  -- from 1
  service          text   NOT NULL,
  sku              text   NOT NULL,
  name             text   NOT NULL,
  quantity         int    NOT NULL,
  unit_price_minor bigint NOT NULL,
  PRIMARY KEY (order_id, line)
);

-- Units that were cancelled, by the event that says so.
CREATE TABLE order_cuts (
  order_id text NOT NULL,
  version  int  NOT NULL,
  service  text NOT NULL,
  sku      text NOT NULL,
  quantity int  NOT NULL,
  PRIMARY KEY (order_id, version, service, sku)
);

CREATE VIEW current_lines AS
  SELECT l.*, coalesce(sum(c.quantity), 0)::int AS cancelled_quantity
  FROM order_lines l LEFT JOIN order_cuts c USING (order_id, service, sku)
  GROUP BY l.order_id, l.line;

-- Flink delivers at least once: after a failure it reads again from its last checkpoint. An older version never replaces a
-- newer one, so that no reader ever sees an order go back.
CREATE FUNCTION keep_newer() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.version < OLD.version THEN
    RETURN NULL;
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER keep_newer BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION keep_newer();
