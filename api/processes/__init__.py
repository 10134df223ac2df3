"""The processes and their composition: the only place that knows which adapter implements which port.

serve sandbox up            one module per process; `commands` is in wiring
wiring doors outside        adapters from settings: the log, stores, doors to external services
beginning background        what `serve` does before it folds, and what it does beside answering
contact_expiry              deletion of contacts that are no longer needed
companions                  what runs beside the writers in `commands`
exposure                    settings that would expose data are refused at start
log_lines signals running   logging, signals, files in which a running ledger describes itself
"""
