"""The Kafka adapter of the EventLog port, one file per role. Nothing outside this folder imports confluent_kafka."""
