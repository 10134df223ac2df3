"""Deciding: the writer of each partition.

writer_loop     one writer: reads commands, decides, commits in transactions
desk            the fold of one partition, and the outcome of the next command
readable        the command in a record
frozen_orders   orders whose fold stopped, and how it resumes
process         the writers that the group assigns to this process
order_listener  what observes the orders of the writers
fold_check      whether the fold is still in the log
held_back       partitions blocked by an open transaction
"""
