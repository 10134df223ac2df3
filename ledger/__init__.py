"""What an order is and what happened to it. Imports none of our other packages; README.md has the map.

words      events, transitions, topics, contacts, errors, bounds
rules      order and evolve, money, envelope, outcomes, walk: pure
ports      log (EventLog), store (Store)
adapters   kafka/, memory/, rocks_store
schemas/   files, versions, codec, compatibility, registry
broker/    embedded Kafka for development and tests
"""
