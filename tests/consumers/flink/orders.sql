-- Flink SQL: every order of the topic as rows of Postgres. tables.sql makes those; ${...} comes from the environment.
-- No statement keeps a state, and all are upserts: the job may read any part of the topic again, or all of it.

-- Two events of an order are two rows with one key. Which of them stays is decided in Postgres, by their version.
SET 'table.exec.sink.require-on-conflict' = 'false';
SET 'table.exec.sink.upsert-materialize' = 'NONE';

CREATE TABLE events (
  `order_id`       STRING NOT NULL,
  `version`        INT    NOT NULL,
  `type`           STRING NOT NULL,
  `occurred_at`    BIGINT NOT NULL,
  `status`         STRING NOT NULL,
  `payment_state`  STRING NOT NULL,
  `customer_id`    STRING NOT NULL,
  `currency`       STRING NOT NULL,
  `total_minor`    BIGINT NOT NULL,
  `captured_minor` BIGINT NOT NULL,
  `refunded_minor` BIGINT NOT NULL,
  `actor`          STRING NOT NULL,
  `command_id`     STRING NOT NULL,
  `placed` ROW<
    `lines` ARRAY<ROW<
      `service` STRING NOT NULL, `sku` STRING NOT NULL, `name` STRING NOT NULL,
      `quantity` INT NOT NULL, `unit_price_minor` BIGINT NOT NULL> NOT NULL> NOT NULL>,
  `imported` ROW<
    `placed` ROW<
      `lines` ARRAY<ROW<
        `service` STRING NOT NULL, `sku` STRING NOT NULL, `name` STRING NOT NULL,
        `quantity` INT NOT NULL, `unit_price_minor` BIGINT NOT NULL> NOT NULL> NOT NULL> NOT NULL>,
  `cut` ROW<
    `lines` ARRAY<ROW<`service` STRING NOT NULL, `sku` STRING NOT NULL, `quantity` INT NOT NULL> NOT NULL> NOT NULL>
) WITH (
  'connector' = 'kafka',
  'topic' = '${TOPIC}',
  'properties.bootstrap.servers' = '${BROKERS}',
  'properties.group.id' = 'orders-in-postgres',
  'properties.isolation.level' = 'read_committed',
  'scan.startup.mode' = 'earliest-offset',
  'value.format' = 'avro-confluent',
  'value.avro-confluent.url' = '${URL}',
  'value.avro-confluent.basic-auth.credentials-source' = 'USER_INFO',
  'value.avro-confluent.basic-auth.user-info' = 'flink:${TOKEN}'
);

CREATE TABLE orders (
  `order_id` STRING, `version` INT, `type` STRING, `occurred_at` BIGINT, `status` STRING, `payment_state` STRING,
  `customer_id` STRING, `currency` STRING, `total_minor` BIGINT, `captured_minor` BIGINT, `refunded_minor` BIGINT,
  `actor` STRING, `command_id` STRING,
  PRIMARY KEY (`order_id`) NOT ENFORCED
) WITH ('connector' = 'jdbc', 'url' = '${POSTGRES}', 'table-name' = 'orders');

CREATE TABLE order_lines (
  `order_id` STRING, `line` INT, `service` STRING, `sku` STRING, `name` STRING, `quantity` INT, `unit_price_minor` BIGINT,
  PRIMARY KEY (`order_id`, `line`) NOT ENFORCED
) WITH ('connector' = 'jdbc', 'url' = '${POSTGRES}', 'table-name' = 'order_lines');

CREATE TABLE order_cuts (
  `order_id` STRING, `version` INT, `service` STRING, `sku` STRING, `quantity` INT,
  PRIMARY KEY (`order_id`, `version`, `service`, `sku`) NOT ENFORCED
) WITH ('connector' = 'jdbc', 'url' = '${POSTGRES}', 'table-name' = 'order_cuts');

EXECUTE STATEMENT SET BEGIN

INSERT INTO orders SELECT
  `order_id`, `version`, `type`, `occurred_at`, `status`, `payment_state`, `customer_id`, `currency`, `total_minor`,
  `captured_minor`, `refunded_minor`, `actor`, `command_id`
FROM events;

INSERT INTO order_lines
SELECT e.`order_id`, l.`line`, l.`service`, l.`sku`, l.`name`, l.`quantity`, l.`unit_price_minor`
FROM events AS e CROSS JOIN UNNEST(COALESCE(e.`placed`.`lines`, e.`imported`.`placed`.`lines`))
  WITH ORDINALITY AS l (`service`, `sku`, `name`, `quantity`, `unit_price_minor`, `line`);

INSERT INTO order_cuts
SELECT e.`order_id`, e.`version`, l.`service`, l.`sku`, l.`quantity`
FROM events AS e CROSS JOIN UNNEST(e.`cut`.`lines`) AS l (`service`, `sku`, `quantity`);

END;
