-- The current state of every order, from order-events into two tables of Postgres (tables.sql), with Flink's SQL client.
-- projections/README.md has the commands.
-- Flink keeps positions and no other state: an event has the whole state of its order, and Postgres refuses an older version.

CREATE TABLE order_events (
  `order_id` STRING NOT NULL,
  `version` INT NOT NULL,
  `type` STRING NOT NULL,
  `occurred_at` BIGINT NOT NULL,
  `status` STRING NOT NULL,
  `payment_state` STRING NOT NULL,
  `customer_id` STRING NOT NULL,
  `currency` STRING NOT NULL,
  `total_minor` BIGINT NOT NULL,
  `captured_minor` BIGINT NOT NULL,
  `refunded_minor` BIGINT NOT NULL,
  `actor` STRING NOT NULL,
  `command_id` STRING NOT NULL,
  `fingerprint` VARBINARY(16) NOT NULL,
  `command_log` VARBINARY(16) NOT NULL,
  `command_offset` BIGINT NOT NULL,
  `batch_first` BIGINT NOT NULL,
  `writer_epoch` INT NOT NULL,
  `prev_hash` VARBINARY(32) NOT NULL,
  `placed` ROW<`lines` ARRAY<ROW<`service` STRING NOT NULL, `sku` STRING NOT NULL, `name` STRING NOT NULL, `quantity`
    INT NOT NULL, `unit_price_minor` BIGINT NOT NULL> NOT NULL> NOT NULL, `adjustments` ARRAY<ROW<`kind` STRING NOT
    NULL, `label` STRING NOT NULL, `amount_minor` BIGINT NOT NULL, `service` STRING, `sku` STRING> NOT NULL> NOT NULL,
    `reference` STRING, `contact_digest` VARBINARY(32) NOT NULL, `expires_at` BIGINT NOT NULL, `metadata`
    ARRAY<ROW<`name` STRING NOT NULL, `text` STRING NOT NULL> NOT NULL> NOT NULL, `number` STRING NOT NULL>,
  `imported` ROW<`placed` ROW<`lines` ARRAY<ROW<`service` STRING NOT NULL, `sku` STRING NOT NULL, `name` STRING NOT
    NULL, `quantity` INT NOT NULL, `unit_price_minor` BIGINT NOT NULL> NOT NULL> NOT NULL, `adjustments`
    ARRAY<ROW<`kind` STRING NOT NULL, `label` STRING NOT NULL, `amount_minor` BIGINT NOT NULL, `service` STRING, `sku`
    STRING> NOT NULL> NOT NULL, `reference` STRING, `contact_digest` VARBINARY(32) NOT NULL, `expires_at` BIGINT NOT
    NULL, `metadata` ARRAY<ROW<`name` STRING NOT NULL, `text` STRING NOT NULL> NOT NULL> NOT NULL, `number` STRING NOT
    NULL> NOT NULL, `old_id` STRING NOT NULL, `placed_at` BIGINT NOT NULL, `status` STRING NOT NULL, `captured_minor`
    BIGINT NOT NULL, `refunded_minor` BIGINT NOT NULL, `shipped_at` BIGINT, `delivered_at` BIGINT, `carrier` STRING,
    `tracking` STRING, `cancel_reason` STRING>,
  `cancel` ROW<`reason` STRING NOT NULL, `by` STRING NOT NULL>,
  `cut` ROW<`lines` ARRAY<ROW<`service` STRING NOT NULL, `sku` STRING NOT NULL, `quantity` INT NOT NULL> NOT NULL> NOT
    NULL, `amount_minor` BIGINT NOT NULL, `reason` STRING NOT NULL, `by` STRING NOT NULL, `shipping` BOOLEAN NOT NULL>,
  `payment` ROW<`attempt` INT NOT NULL, `amount_minor` BIGINT, `provider_ref` STRING, `waiting_for` STRING, `code`
    STRING, `charge_ref` STRING, `capture_before` BIGINT>,
  `refund_request` ROW<`amount_minor` BIGINT NOT NULL, `reason` STRING NOT NULL, `lines` ARRAY<ROW<`service` STRING
    NOT NULL, `sku` STRING NOT NULL, `quantity` INT NOT NULL> NOT NULL> NOT NULL, `shipping` BOOLEAN NOT NULL,
    `restock` BOOLEAN NOT NULL>,
  `refund` ROW<`refund_no` INT NOT NULL, `provider_ref` STRING, `amount_minor` BIGINT, `code` STRING>,
  `dispute` ROW<`provider_ref` STRING NOT NULL, `amount_minor` BIGINT, `reason` STRING, `due_by` BIGINT, `outcome`
    STRING>,
  `stock` ROW<`service` STRING NOT NULL, `reservation_ref` STRING, `reason` STRING, `items` ARRAY<ROW<`sku` STRING NOT
    NULL, `available` INT NOT NULL> NOT NULL> NOT NULL, `part` INT>,
  `shipment` ROW<`carrier` STRING, `tracking` STRING, `lines` ARRAY<ROW<`service` STRING NOT NULL, `sku` STRING NOT
    NULL, `quantity` INT NOT NULL> NOT NULL> NOT NULL, `parcel` INT>,
  `attention` ROW<`code` STRING NOT NULL, `obligation_key` STRING NOT NULL, `action` STRING, `amount_minor` BIGINT,
    `ticket` STRING>,
  `metadata` ROW<`entries` ARRAY<ROW<`name` STRING NOT NULL, `text` STRING NOT NULL> NOT NULL> NOT NULL>
) WITH (
  'connector' = 'kafka',
  'topic' = 'order-events',
  'properties.bootstrap.servers' = '${BROKERS}',
  'properties.group.id' = 'orders-in-postgres',
  'properties.isolation.level' = 'read_committed',
  'scan.startup.mode' = 'earliest-offset',
  'format' = 'avro-confluent',
  'avro-confluent.url' = '${REGISTRY}',
  'avro-confluent.basic-auth.credentials-source' = 'USER_INFO',
  'avro-confluent.basic-auth.user-info' = 'reader:${TOKEN}',
  'avro-confluent.schema' = '${SCHEMA}'
);

CREATE TABLE orders (
  `order_id` STRING NOT NULL,
  `version` INT NOT NULL,
  `type` STRING NOT NULL,
  `occurred_at` BIGINT NOT NULL,
  `status` STRING NOT NULL,
  `payment_state` STRING NOT NULL,
  `customer_id` STRING NOT NULL,
  `currency` STRING NOT NULL,
  `total_minor` BIGINT NOT NULL,
  `captured_minor` BIGINT NOT NULL,
  `refunded_minor` BIGINT NOT NULL,
  `actor` STRING NOT NULL,
  `command_id` STRING NOT NULL,
  `fingerprint` VARBINARY(16) NOT NULL,
  `command_log` VARBINARY(16) NOT NULL,
  `command_offset` BIGINT NOT NULL,
  `batch_first` BIGINT NOT NULL,
  `writer_epoch` INT NOT NULL,
  `prev_hash` VARBINARY(32) NOT NULL,
  PRIMARY KEY (`order_id`) NOT ENFORCED
) WITH (
  'connector' = 'jdbc',
  'url' = '${JDBC_URL}',
  'table-name' = 'orders'
);

CREATE TABLE order_lines (
  `order_id` STRING NOT NULL,
  `service` STRING NOT NULL,
  `sku` STRING NOT NULL,
  `name` STRING NOT NULL,
  `quantity` INT NOT NULL,
  `unit_price_minor` BIGINT NOT NULL,
  PRIMARY KEY (`order_id`, `service`, `sku`) NOT ENFORCED
) WITH (
  'connector' = 'jdbc',
  'url' = '${JDBC_URL}',
  'table-name' = 'order_lines'
);

EXECUTE STATEMENT SET
BEGIN
  INSERT INTO orders SELECT
    `order_id`, `version`, `type`, `occurred_at`, `status`, `payment_state`, `customer_id`, `currency`, `total_minor`,
    `captured_minor`, `refunded_minor`, `actor`, `command_id`, `fingerprint`, `command_log`, `command_offset`,
    `batch_first`, `writer_epoch`, `prev_hash`
  FROM order_events;

  INSERT INTO order_lines SELECT `order_id`, l.`service`, l.`sku`, l.`name`, l.`quantity`, l.`unit_price_minor`
  FROM order_events CROSS JOIN UNNEST(COALESCE(order_events.`placed`.`lines`, order_events.`imported`.`placed`.`lines`)) AS
    l (`service`, `sku`, `name`, `quantity`, `unit_price_minor`);
END;
