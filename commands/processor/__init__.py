"""Deciding: the writer of each partition.

writer_loop     one writer: reads commands, decides, commits in transactions
batches         how many commands are decided together, and which the log rejects
desk            the fold of one partition, and the outcome of the next command
desks           the desks of one writer, and their store
desk_rows       where its rows are
readable        the command in a record
refusing        the refusals that a desk records
frozen_orders   orders whose fold stopped, and how it resumes
process         the writers that the group assigns to this process
order_listener  what observes the orders of the writers
fold_check      whether the fold is still in the log, and the log is the one from before
retention       what the log has deleted, and whether it was needed
gaps            commands that were deleted before they were decided
claims          how far commands are decided, when no record shows it
meters          what a writer did, for metrics
held_back       partitions blocked by an open transaction
"""
