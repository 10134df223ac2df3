"""The sandbox: loopback stand-ins for the payment provider and the two stock services, for `up` and the tests.

It keeps its state in its own database, with a journal of every call, so that the ledger can be compared with what happened
outside. It does not mock the project's code: it speaks the protocols of the real services.

journal         the database and the journal of calls and effects
chaos           injected faults; chaos_http applies them to HTTP
cards           the test cards
provider        the payment provider: one request, one transaction; intents, refunds and disputes are its rules, objects its rows,
                payment_server its HTTP side, webhooks its messages
stock           the stock services
server          all of them as one process
"""

SECRET_KEY = "sk_test_sandbox"  # noqa: S105  # the only accepted secret key; it is useless anywhere else
PUBLISHABLE_KEY = "pk_test_sandbox"
