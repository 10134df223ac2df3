"""A whole ledger, simulated from a seed; README.md has the map."""
