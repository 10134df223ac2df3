"""The processes, and what puts them together: the only place that knows which adapter is behind which port.

serve commands sandbox up   one module per process
wiring doors outside        adapters from settings: the log, stores, the doors to the world outside
beginning background        what `serve` does before it folds, and beside it
contact_expiry              the end of contacts that nobody needs any more
companions                  what works beside the writers in `commands`
exposure                    what others could reach or read, refused at start
log_lines signals running   logging, signals, what a running ledger writes about itself for others to find
"""
