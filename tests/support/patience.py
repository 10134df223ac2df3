"""How long a test waits for something that must happen: the end of its patience, never a measure of speed.

Ten times what the slowest such wait takes on an idle machine, and less than `timeout` of pytest's settings, so that a wait
that fails says for what.
"""

PATIENCE_S = 240.0
