"""`demo`: runs the whole system in a temporary directory, through the sandbox, and checks the result from outside.

run              the demo as a whole, and its exit code
steps            what is done and checked, step by step
inputs           the requests
calls            HTTP calls to the ledger and to the sandbox
screen           the tables
plain_consumer   an independent reader of the topic that imports nothing from the project
"""
