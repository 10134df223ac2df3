"""The command line. Knows everything below it; nothing imports it.

verbs       every verb: thin, it reads settings, calls the piece that does the work, and shows the result
terminal    standard output and error in any shell; screens: what a person sees while something takes time
patient_log the log, asked again while a broker cannot answer
demo/       the demo: the whole path in a fresh directory, checked from outside

The others are the verbs they are named for.
"""

from api.cli.verbs import main

__all__ = ["main"]
