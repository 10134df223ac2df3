"""The domain: orders, events, and the log and stores they live in. Imports none of the other packages.

words   events, transitions, topics, contacts, errors, config
rules   order (evolve, display), money, envelope, outcomes, schemas, compatibility, partitioner, walk (checks of every
        record of the log): pure; hanging (how to end a transaction that Kafka left open) over last_record
ports   log (EventLog), store (Store, MemoryStore)
doors   codec (fastavro), kafka_log and kafka/ (confluent-kafka), rocks_store (rocksdict), broker (embedded Kafka) over jars,
        http_client (every HTTP client, aiohttp), registry (a schema registry), event_loop (uvloop),
        avsc_files (data files), archive (the ledger in one file)
shipped memory_log and memory/: the EventLog in memory, under the same contract tests as Kafka
"""
