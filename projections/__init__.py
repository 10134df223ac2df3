"""What readers see. Imports ledger only, never commands.

rules     read_models (event -> rows), contacts (contact -> row): pure
process   projector (chunks of the log -> databases, and who waits for what), faust_app (the only faust file)
reads     queries (one order, its past, pages, outcomes, totals)
"""
