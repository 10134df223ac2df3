"""Deciding: the writer of each partition.

writer_loop   one writer: reads commands, decides, commits in transactions
desk          the fold of one partition, and the outcome of the next command
refusing      the refusals that it records
process       the writers that the group assigns to this process
fold_check    whether the fold is still in the log
retention     what the log has deleted, and whether it was needed
claims        how far commands are decided, when no record shows it
held_back     partitions blocked by an open transaction
"""
