"""What someone wants and whether they get it. Imports ledger only.

words     messages (the command record)
rules     decide, idempotency: pure
process   desk (one partition's fold and the next decision), processor (one writer: the loop), process (the group's word)
"""
