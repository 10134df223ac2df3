"""What readers see. Imports ledger only, never commands.

rules     read_models (event -> rows), digests (rows -> one number): pure
fold      databases (rows, position and digest of a generation, in one write), generations (where they lie, which one is read),
          freshness (when one was current last)
serve     projector (chunks -> databases, and who waits for what), feed, watchdog, faust_app (the only faust file)
bulk      bulk (the log, as fast as one process can), rebuild (several of them, compared, swapped), verify (log and rows proved),
          live (a running `serve` answers both, and takes another generation over)
reads     queries (one order, its past, pages, outcomes, totals), lists (their keys, over all partitions)
"""
