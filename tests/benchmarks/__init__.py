"""What the ledger costs, as ratios against a reference measured in the same run: `uv run python -m tests.benchmarks`.

Machines are noisy and this one may be shared, so no number comes alone: the system and its reference are measured in turns, a
row is the median over pairs with the least and the largest, and the result says how much CPU other processes took meanwhile.
Nothing is printed unless everything was correct: every accepted order is readable, versions are dense, each command has exactly
one outcome, counts agree.
"""
