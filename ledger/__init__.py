"""The domain: orders, events, and the log and stores they live in. Imports none of the other packages; README.md has the map.

words      events, transitions, topics, contacts, errors, bounds, levels
rules      order and evolve, money, envelope, outcomes, walk: pure
ports      log (EventLog), store (Store)
adapters   kafka/, memory/, rocks_store
schemas/   files, versions, codec, compatibility, registry
upgrades/  programs of several versions on one ledger
broker/    embedded Kafka for development and tests
"""
