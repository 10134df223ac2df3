"""Decides commands, and fulfils the obligations of orders to the outside world. Imports only ledger; README.md has the map.

rules        messages, decide, flaws, idempotency, obligations, outlook: pure
processor/   the writer of each partition
reconciler/  payments and stock: calls and the facts they bring
notifier/    messages to customers
webhooks/    events for endpoints of others
sandbox/     stand-ins for the external services, for development and tests
"""
