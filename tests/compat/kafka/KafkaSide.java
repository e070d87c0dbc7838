// The Kafka side of the comparison: writes topics with Kafka's own clients, and prints what a Kafka consumer reads.
//
//   java -cp 'jars/*' KafkaSide.java write BOOTSTRAP FLIGHTS.jsonl
//   java -cp 'jars/*' KafkaSide.java create BOOTSTRAP TOPIC PARTITIONS
//   java -cp 'jars/*' KafkaSide.java print BOOTSTRAP FOLDER TOPIC...
//
// `print` writes FOLDER/TOPIC.read_uncommitted.jsonl and FOLDER/TOPIC.read_committed.jsonl, one object a record, in the words
// of `siltstone read --json`, so that the two can be compared line by line. Ends when it has read what was there at the start.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.PrintWriter;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

class KafkaSide {
    static final ObjectMapper JSON = new ObjectMapper();
    static final String[] CODECS = {"none", "gzip", "snappy", "lz4", "zstd"};
    static final String SMALL_SEGMENTS = "1048576";
    static final Duration CLEANING_PATIENCE = Duration.ofSeconds(60);
    static final Duration LEADER_PATIENCE = Duration.ofSeconds(30);

    static String bootstrap;

    /** A line of the flights file with its key and its event time. */
    record Flight(byte[] key, byte[] line, long timestamp) {}

    public static void main(String[] args) throws Exception {
        bootstrap = args[1];
        switch (args[0]) {
            case "write" -> write(flights(Path.of(args[2])));
            case "create" -> create(args[2], Integer.parseInt(args[3]), Map.of());
            case "print" -> print(Path.of(args[2]), Arrays.copyOfRange(args, 3, args.length));
            default -> throw new IllegalArgumentException("write, create or print, not " + args[0]);
        }
    }

    static List<Flight> flights(Path file) throws Exception {
        List<Flight> flights = new ArrayList<>();
        for (String line : Files.readAllLines(file)) {
            JsonNode flight = JSON.readTree(line);
            byte[] key = flight.get("tailnum").isNull() ? null : utf8(flight.get("tailnum").asText());
            flights.add(new Flight(key, utf8(line), Instant.parse(flight.get("time").asText()).toEpochMilli()));
        }
        return flights;
    }

    static void write(List<Flight> flights) throws Exception {
        shapes();
        codecs(flights);
        keyed(flights);
        late(flights);
        transactions(flights);
        openTransaction(flights);
        appendTime(flights);
        compacted(flights);
    }

    /** Keys, values and headers at their edges: null, empty, not UTF-8. */
    static void shapes() throws Exception {
        create("shapes", 1, Map.of());
        byte[] binary = {(byte) 0xff, 0, (byte) 0xc3, 0x28};
        byte[][] edges = {null, {}, binary, utf8("caf\u00e9 \u2603 \"quoted\"\n")};
        try (var producer = producer(Map.of("linger.ms", "50"))) {
            for (byte[] key : edges) {
                for (byte[] value : edges) {
                    var record = new ProducerRecord<>("shapes", 0, 1_356_998_400_000L, key, value);
                    record.headers().add(new RecordHeader("trace", binary));
                    record.headers().add(new RecordHeader("", (byte[]) null));
                    record.headers().add(new RecordHeader("trace", utf8("again")));
                    send(producer, record);
                    send(producer, new ProducerRecord<>("shapes", 0, 0L, key, value));
                }
            }
            send(producer, new ProducerRecord<>("shapes", 0, null, utf8("large"), new byte[200_000]));
        }
    }

    /** Every codec after the other in one partition, in batches of many records. */
    static void codecs(List<Flight> flights) throws Exception {
        create("codecs", 1, Map.of());
        for (int codec = 0; codec < CODECS.length; codec++) {
            try (var producer = producer(Map.of("compression.type", CODECS[codec], "linger.ms", "50", "batch.size", "65536"))) {
                for (Flight flight : flights.subList(codec * 1000, codec * 1000 + 1000)) {
                    send(producer, new ProducerRecord<>("codecs", 0, flight.timestamp, flight.key, flight.line));
                }
            }
        }
    }

    /** The client's own choice of partition, by the hash of the key. */
    static void keyed(List<Flight> flights) throws Exception {
        create("keyed", 4, Map.of());
        try (var producer = producer(Map.of("enable.idempotence", "true", "acks", "all"))) {
            for (Flight flight : flights) {
                send(producer, new ProducerRecord<>("keyed", null, flight.timestamp, flight.key, flight.line));
            }
        }
    }

    /** Several segments whose timestamps run backwards again and again. */
    static void late(List<Flight> flights) throws Exception {
        create("late", 1, Map.of("segment.bytes", SMALL_SEGMENTS));
        try (var producer = producer(Map.of("enable.idempotence", "false", "batch.size", "32768", "linger.ms", "5"))) {
            for (int round = 0; round < 4; round++) {
                for (Flight flight : flights) {
                    send(producer, new ProducerRecord<>("late", 0, flight.timestamp, flight.key, flight.line));
                }
            }
        }
    }

    /** Two transactional producers and a plain one, interleaved, over several segments; every third transaction is aborted. */
    static void transactions(List<Flight> flights) throws Exception {
        create("transactions", 1, Map.of("segment.bytes", SMALL_SEGMENTS));
        try (var left = producer(Map.of("transactional.id", "left"));
                var right = producer(Map.of("transactional.id", "right", "compression.type", "zstd"));
                var plain = producer(Map.of())) {
            left.initTransactions();
            right.initTransactions();
            for (int round = 0; round < 60; round++) {
                left.beginTransaction();
                right.beginTransaction();
                for (int i = 0; i < 200; i++) {
                    Flight flight = flights.get((round * 200 + i) % flights.size());
                    KafkaProducer<byte[], byte[]> producer = List.of(left, right, plain).get(i % 3);
                    send(producer, new ProducerRecord<>("transactions", 0, flight.timestamp, flight.key, flight.line));
                    if (i % 50 == 49) {
                        left.flush();
                        right.flush();
                        plain.flush();
                    }
                }
                end(round % 2 == 0 ? left : right, round);
                end(round % 2 == 0 ? right : left, round + 1);
            }
        }
    }

    static void end(KafkaProducer<byte[], byte[]> producer, int round) {
        if (round % 3 == 0) {
            producer.flush();
            producer.abortTransaction();
        } else {
            producer.commitTransaction();
        }
    }

    /** An aborted transaction, a committed one, and one that is still open when the broker stops, with plain records after it. */
    static void openTransaction(List<Flight> flights) throws Exception {
        create("open-transaction", 1, Map.of());
        // Longer than the broker lives.
        var producer = producer(Map.of("transactional.id", "open", "transaction.timeout.ms", "900000"));
        producer.initTransactions();
        for (int round = 0; round < 3; round++) {
            producer.beginTransaction();
            for (Flight flight : flights.subList(round * 100, round * 100 + 100)) {
                send(producer, new ProducerRecord<>("open-transaction", 0, flight.timestamp, flight.key, flight.line));
            }
            producer.flush();
            if (round < 2) {
                end(producer, round);
            }
        }
        try (var plain = producer(Map.of())) {
            for (Flight flight : flights.subList(300, 400)) {
                send(plain, new ProducerRecord<>("open-transaction", 0, flight.timestamp, flight.key, flight.line));
            }
        }
        producer.close(Duration.ZERO); // a patient close would abort it
    }

    /** The broker's clock instead of the producer's. */
    static void appendTime(List<Flight> flights) throws Exception {
        create("append-time", 1, Map.of("message.timestamp.type", "LogAppendTime"));
        try (var producer = producer(Map.of("compression.type", "snappy"))) {
            for (Flight flight : flights.subList(0, 1000)) {
                send(producer, new ProducerRecord<>("append-time", 0, flight.timestamp, flight.key, flight.line));
            }
        }
    }

    /** Cleaned segments: offsets with gaps, rebuilt batches, tombstones. Returns when the broker's cleaner has passed. */
    static void compacted(List<Flight> flights) throws Exception {
        create("compacted", 1, Map.of("cleanup.policy", "compact", "segment.bytes", SMALL_SEGMENTS, "min.cleanable.dirty.ratio", "0.01"));
        long written = 0;
        try (var producer = producer(Map.of("compression.type", "lz4", "batch.size", "32768", "linger.ms", "5"))) {
            for (int round = 0; round < 12; round++) {
                for (Flight flight : flights) {
                    if (flight.key == null) {
                        continue;
                    }
                    byte[] value = written % 97 == 0 ? null : flight.line;
                    send(producer, new ProducerRecord<>("compacted", 0, flight.timestamp, flight.key, value));
                    written++;
                }
            }
        }
        Instant deadline = Instant.now().plus(CLEANING_PATIENCE);
        while (read("compacted", "read_uncommitted").size() > written / 2) {
            if (Instant.now().isAfter(deadline)) {
                throw new IllegalStateException("the broker's cleaner did not pass within " + CLEANING_PATIENCE);
            }
            Thread.sleep(500);
        }
    }

    static void create(String topic, int partitions, Map<String, String> settings) throws Exception {
        Map<String, String> all = new HashMap<>(settings);
        all.put("retention.ms", "-1"); // the flights are of 2013
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            admin.createTopics(List.of(new NewTopic(topic, partitions, (short) 1).configs(all))).all().get();
            // Every leader answers before the first record is sent: a broker that refuses an idempotent producer's first batch
            // and takes its second one, because the leader came up in between, never takes the first again.
            Map<TopicPartition, OffsetSpec> ends = new HashMap<>();
            for (int partition = 0; partition < partitions; partition++) {
                ends.put(new TopicPartition(topic, partition), OffsetSpec.latest());
            }
            Instant deadline = Instant.now().plus(LEADER_PATIENCE);
            while (!answers(admin, ends, deadline)) {
                Thread.sleep(50);
            }
        }
    }

    /** Whether every leader answers; a broker that has not heard of the topic yet says that it does not know it. */
    static boolean answers(Admin admin, Map<TopicPartition, OffsetSpec> ends, Instant deadline) throws Exception {
        try {
            admin.listOffsets(ends).all().get();
            return true;
        } catch (ExecutionException failure) {
            if (failure.getCause() instanceof UnknownTopicOrPartitionException && Instant.now().isBefore(deadline)) {
                return false;
            }
            throw failure;
        }
    }

    static KafkaProducer<byte[], byte[]> producer(Map<String, Object> settings) {
        Map<String, Object> all = new HashMap<>(settings);
        all.put("bootstrap.servers", bootstrap);
        return new KafkaProducer<>(all, new ByteArraySerializer(), new ByteArraySerializer());
    }

    /** Sends without waiting; a record that is not acknowledged ends the program. */
    static void send(KafkaProducer<byte[], byte[]> producer, ProducerRecord<byte[], byte[]> record) {
        producer.send(record, (metadata, failure) -> {
            if (failure != null) {
                failure.printStackTrace();
                Runtime.getRuntime().halt(1);
            }
        });
    }

    static void print(Path folder, String[] topics) throws Exception {
        for (String topic : topics) {
            for (String isolation : List.of("read_uncommitted", "read_committed")) {
                try (var out = new PrintWriter(folder.resolve(topic + "." + isolation + ".jsonl").toFile(), StandardCharsets.UTF_8)) {
                    for (var record : read(topic, isolation)) {
                        out.println(JSON.writeValueAsString(json(record)));
                    }
                }
            }
        }
    }

    static List<ConsumerRecord<byte[], byte[]>> read(String topic, String isolation) {
        List<ConsumerRecord<byte[], byte[]>> records = new ArrayList<>();
        Map<String, Object> settings = Map.of("bootstrap.servers", bootstrap, "isolation.level", isolation, "enable.auto.commit", "false");
        try (var consumer = new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            List<TopicPartition> partitions =
                    consumer.partitionsFor(topic).stream().map(p -> new TopicPartition(topic, p.partition())).toList();
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
            while (partitions.stream().anyMatch(p -> consumer.position(p) < ends.get(p))) {
                consumer.poll(Duration.ofMillis(100)).forEach(records::add);
            }
        }
        return records;
    }

    static ObjectNode json(ConsumerRecord<byte[], byte[]> record) {
        ObjectNode node = JSON.createObjectNode();
        node.put("topic", record.topic()).put("partition", record.partition()).put("offset", record.offset());
        node.put("timestamp_ms", record.timestamp() < 0 ? null : Long.valueOf(record.timestamp()));
        text(node, "key", record.key());
        text(node, "value", record.value());
        var headers = node.putArray("headers");
        for (Header header : record.headers()) {
            ObjectNode shown = headers.addObject().put("key", header.key());
            text(shown, "value", header.value());
        }
        return node;
    }

    /** As a string when the bytes are UTF-8, else in base64 under another name. */
    static void text(ObjectNode node, String name, byte[] bytes) {
        if (bytes == null) {
            node.putNull(name);
            return;
        }
        try {
            node.put(name, StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(bytes)).toString());
        } catch (CharacterCodingException notText) {
            node.put(name + "_base64", Base64.getEncoder().encodeToString(bytes));
        }
    }

    static byte[] utf8(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
