"""What the ledger costs, as ratios against a reference measured in the same run: `uv run python -m tests.benchmarks`.

Machines are noisy and this one may be shared, so no number stands alone: the system and its reference are measured in turns, a
row is the median over pairs with the least and the largest, and what other processes took of the machine meanwhile is told.
Nothing is printed unless all of it was correct: every accepted order is readable, versions are dense, each command has exactly
one outcome, counts agree.
"""
