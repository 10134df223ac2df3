"""What orders owe the world outside: payment provider and stock services.

loop            does what is owed, and reports facts as commands; backlog: orders that wait for a busy port
pauses          when an obligation is tried again; reports: facts as commands; clients: those of the ports
performing      which call an obligation leads to, and what its answer says; answers: what a port answers
payment_port    stripe_gateway (with stripe_facts, stripe_webhook, shared_looks)
stock_port      stock_http and stock_grpc (with stock_answers)
tries           how one call is tried
"""
