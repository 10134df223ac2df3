"""Deciding: the writer of each partition.

writer_loop   one writer: reads commands, decides, commits in transactions
desk          one partition as folded, and what the next command leads to
process       as many writers as the group says
fold_check held_back   is what was folded in the log; partitions that Kafka holds back
"""
