"""Outgoing webhooks: the feed of events, delivered to endpoints of others.

endpoints    records of `order-control` about endpoints, and what they say together: pure
signing      secrets and signatures of Standard Webhooks: pure
queues       what one endpoint is still owed, and which position is safe to store: pure
addresses    which network addresses a delivery may go to: pure
door         one delivery over HTTP
tries        records of `order-deliveries`, the delivery log
delivering   the loop of one endpoint
loop         follows the endpoints, and runs a loop for each
"""
