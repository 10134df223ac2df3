"""The read models. Imports only ledger, never commands.

rules     read_models (event -> rows), digests (rows -> one number): pure
fold      databases (rows, position and digest of a generation, in one write), generations (their directories, the current one),
          freshness (when one was last current), origin (whether it is of this log)
serve     projector (chunks -> databases, and waiting requests), feed, watchdog, faust_app (the only faust file)
bulk      bulk (folds the log as fast as one process can), rebuild (several of them, comparison, swap), verify (log and rows),
          live (how a running `serve` answers both, and switches generations)
reads     queries (one order, its past, pages, outcomes, totals), lists (their keys, across partitions), all_events (the
          feed; its rows: event_rows, pure)
"""
