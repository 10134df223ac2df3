"""What someone wants and whether they get it, and what orders owe the world outside. Imports ledger only.

words     messages (the command record), answers (what a port answers)
rules     decide, idempotency, obligations, notices: pure
ports     payments, stock, messages_out
doors     stripe_gateway (with stripe_facts, stripe_webhook, shared_looks), stock_http and stock_grpc (with stock_answers),
          email_door, sms_door; tries: how one call to the provider or a service is tried
process   desk (one partition's fold and the next decision), processor (one writer: the loop), process (the group's word),
          fold_check (is what was folded in the log), held_back (partitions behind a transaction that Kafka left open),
          reconciler and performing (what orders owe the world), notifier (what customers are told)
sandbox   stand-ins for what is behind the ports
"""
