import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.*;
import org.apache.avro.Schema;
import org.apache.avro.generic.*;
import org.apache.avro.io.DecoderFactory;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.common.serialization.*;

/** Tails order-events with kafka-clients and Avro alone: java OrderTail BROKERS TOPIC REGISTRY_URL TOKEN EVENTS */
public class OrderTail {
    static final Map<Integer, Schema> SCHEMAS = new HashMap<>();

    static Schema schema(String registry, String token, int id) throws Exception {
        if (!SCHEMAS.containsKey(id)) {
            var request = HttpRequest.newBuilder(URI.create(registry + "/schemas/ids/" + id)).header("Authorization", "Bearer " + token);
            var answer = HttpClient.newHttpClient().send(request.build(), BodyHandlers.ofString()).body();
            var text = new com.fasterxml.jackson.databind.ObjectMapper().readTree(answer).get("schema").asText();
            SCHEMAS.put(id, new Schema.Parser().parse(text));
        }
        return SCHEMAS.get(id);
    }

    public static void main(String[] args) throws Exception {
        var settings = new Properties();
        settings.putAll(Map.of("bootstrap.servers", args[0], "group.id", "order-tail-java",
            "isolation.level", "read_committed", "auto.offset.reset", "earliest"));
        var versions = new HashMap<String, Integer>();
        int left = Integer.parseInt(args[4]);
        try (var consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new ByteArrayDeserializer())) {
            consumer.subscribe(List.of(args[1]));
            while (left > 0) {
                for (ConsumerRecord<String, byte[]> record : consumer.poll(Duration.ofSeconds(1))) {
                    var value = ByteBuffer.wrap(record.value()); // Confluent's wire format: 0, schema id, Avro
                    if (value.get() != 0) throw new IllegalStateException("not in the wire format");
                    var reader = new GenericDatumReader<GenericRecord>(schema(args[2], args[3], value.getInt()));
                    var event = reader.read(null, DecoderFactory.get().binaryDecoder(record.value(), 5, record.value().length - 5, null));
                    int version = (int) event.get("version"), before = versions.getOrDefault(record.key(), 0);
                    if (version != before + 1) throw new IllegalStateException("gap in " + record.key() + ": " + version + " after " + before);
                    versions.put(record.key(), version);
                    System.out.println(record.key() + " " + version + " " + event.get("type") + " " + event.get("status"));
                    if (--left == 0) break;
                }
            }
        }
    }
}
