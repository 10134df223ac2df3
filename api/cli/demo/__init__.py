"""`demo`: the whole path in a fresh directory, through the sandbox, checked from outside.

run       the demo as a whole, and its exit code
steps     what is done and checked, step by step; inputs: what is sent; calls: to the ledger and the sandbox
screen    what a person sees
plain_consumer   a stranger: reads the topic and imports nothing of the project
"""
