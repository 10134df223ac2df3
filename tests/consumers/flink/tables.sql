-- The tables that orders.sql fills. Their columns are the envelope of an event (avro/README.md) and the lines as ordered.

CREATE TABLE orders (
  order_id text NOT NULL PRIMARY KEY,
  version integer NOT NULL,
  type text NOT NULL,
  occurred_at bigint NOT NULL,
  status text NOT NULL,
  payment_state text NOT NULL,
  customer_id text NOT NULL,
  currency text NOT NULL,
  total_minor bigint NOT NULL,
  captured_minor bigint NOT NULL,
  refunded_minor bigint NOT NULL,
  actor text NOT NULL,
  command_id text NOT NULL,
  fingerprint bytea NOT NULL,
  command_log bytea NOT NULL,
  command_offset bigint NOT NULL,
  batch_first bigint NOT NULL,
  writer_epoch integer NOT NULL,
  prev_hash bytea NOT NULL
);

CREATE TABLE order_lines (
  order_id text NOT NULL,
  service text NOT NULL,
  sku text NOT NULL,
  name text NOT NULL,
  quantity integer NOT NULL,
  unit_price_minor bigint NOT NULL,
  PRIMARY KEY (order_id, service, sku)
);

-- A job that starts again at a checkpoint writes older versions once more. They change nothing.
CREATE FUNCTION keep_newer_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RETURN CASE WHEN new.version >= old.version THEN new END;
END $$;
CREATE TRIGGER keep_newer_version BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION keep_newer_version();
