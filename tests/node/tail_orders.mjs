// Reads `count` events of a topic with kafkajs and decodes them with the schemas that `serve` answers.
// Arguments: brokers, topic, URL of serve, token, count, and `lz4` to install a codec for LZ4, which kafkajs does not have.
// Prints one JSON line an event, or the error that ended the consumer.
import registries from "@kafkajs/confluent-schema-registry";
import kafkajs from "kafkajs";

const [brokers, topic, url, token, count, codec] = process.argv.slice(2);
if (codec === "lz4") {
  const { compressFrame, decompressFrame } = await import("lz4-napi");
  kafkajs.CompressionCodecs[kafkajs.CompressionTypes.LZ4] = () => ({
    compress: (encoder) => compressFrame(encoder.buffer),
    decompress: (buffer) => decompressFrame(buffer),
  });
}
const registry = new registries.SchemaRegistry({ host: url, auth: { username: "reader", password: token } });
const kafka = new kafkajs.Kafka({ brokers: brokers.split(","), logLevel: kafkajs.logLevel.NOTHING, retry: { retries: 10, initialRetryTime: 100 } });
const consumer = kafka.consumer({ groupId: `tail-${Date.now()}-${Math.random()}`, retry: { restartOnFailure: async () => false } });

let left = Number(count);
const ended = new Promise((end) => {
  consumer.on(consumer.events.CRASH, ({ payload }) => end(payload.error));
  consumer.connect().then(async () => {
    await consumer.subscribe({ topic, fromBeginning: true });
    await consumer.run({
      eachMessage: async ({ partition, message }) => {
        const { order_id, version, type } = await registry.decode(message.value);
        console.log(JSON.stringify({ partition, offset: message.offset, order_id, version, type, ce_id: String(message.headers.ce_id) }));
        if (--left === 0) end(null);
      },
    });
  }).catch(end);
});
const error = await ended;
await consumer.disconnect();
if (error) {
  console.error(`${error.name}: ${error.message}`);
  process.exitCode = 1;
}
