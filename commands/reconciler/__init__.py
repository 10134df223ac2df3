"""Fulfils the obligations of orders to the payment provider and the stock services.

loop            performs obligations and reports facts as commands
backlog         orders that wait for a busy port, or for their turn
schedule        when an order is checked: at a time of the log, or after a pause
pauses          when an obligation is retried
reports         sends facts as commands
sweep           once a day: what no message reported
clients         the clients of the ports
performing      which call fulfils an obligation, and what its answer means
answers         the answers of a port
payment_port    implemented by stripe_gateway (with stripe_facts, stripe_amounts, stripe_webhook, shared_reads)
stock_port      implemented by stock_http and stock_grpc (with stock_answers)
tries           one call with its retries
"""
