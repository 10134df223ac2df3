"""Several programs of different versions on one ledger (ARCHITECTURE, Versions side by side).

records      the records of `order-control`, and what they say: schemas, nodes, the level in use. Pure
control      reads and writes that topic
membership   one node: publishes its schemas, refuses to start on a later level, announces itself, follows the others
resolving    a log whose readers look up the schemas of later programs
"""
