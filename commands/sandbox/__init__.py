"""The sandbox: loopback stand-ins for the payment provider and the two stock services, for `up` and the tests.

It keeps what it is told in a database of its own and writes a journal of every call, so that what the ledger says can be held
against what happened outside. Nothing here is a model of our own code: it speaks the protocols that the real services speak.

journal         the database and the journal of calls and effects
chaos           which calls go wrong, and how; chaos_http does it to HTTP
cards           the test cards
provider        the payment provider: one request, one transaction; intents, refunds and disputes are its rules, objects its rows,
                payment_server its HTTP side, webhooks its messages
stock           the stock services
server          all of it as one process
"""

SECRET_KEY = "sk_test_sandbox"  # noqa: S105  # the only secret key that is taken; it opens nothing anywhere else
PUBLISHABLE_KEY = "pk_test_sandbox"
