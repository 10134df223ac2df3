"""Embedded Kafka for development and tests.

node            one broker as a process: start, readiness, stop
properties readiness java   its settings, whether it answers, the Java it runs on
jars            its jars, by hash; formatting: what its format tool makes
aot_cache aot_training   Java's ahead-of-time cache
"""
