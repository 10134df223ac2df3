"""The command line. Knows everything below it; nothing imports it.

verbs       every verb: reads settings, calls the code that does the work, shows the result
terminal    standard output and error in any shell
screens     progress bars and panels for people
demo/       the demo: the whole system in a temporary directory, checked from outside

Each of the other files implements the verb it is named after.
"""

from api.cli.verbs import main

__all__ = ["main"]
