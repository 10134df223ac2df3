"""Embedded Kafka for development and tests.

node                     one broker as a process: start, readiness, stop
properties readiness java   its settings, its readiness, its Java
jars                     its jars, verified by hash
formatting               the output of its format tool
quorum                   its place in a cluster of tests
aot_cache aot_training   Java's ahead-of-time cache
"""
