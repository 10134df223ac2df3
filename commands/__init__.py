"""What someone wants and whether they get it. Imports ledger only.

words     messages (the command record), answers (what a port answers)
rules     decide, idempotency, obligations: pure
ports     payments, stock, messages_out
process   desk (one partition's fold and the next decision), processor (one writer: the loop), process (the group's word),
          reconciler and performing (what orders owe the world)
sandbox   stand-ins for what is behind the ports
"""
