"""Decides commands, and fulfils the obligations of orders to the outside world. Imports only ledger.

words     messages (the command record), answers (the answers of a port)
rules     decide, idempotency, obligations, notices: pure
ports     payments, stock, messages_out
doors     stripe_gateway (with stripe_facts, stripe_webhook, shared_looks), stock_http and stock_grpc (with stock_answers),
          email_door, sms_door; tries: one call to the provider or a service, with its retries
process   desk (one partition's fold and the next decision), processor (one writer: the loop), process (all writers of a process),
          fold_check (is the fold still in the log), held_back (partitions blocked by a transaction that Kafka left open),
          reconciler and performing (obligations), notifier (messages to customers)
sandbox   stand-ins for the external services behind the ports
"""
