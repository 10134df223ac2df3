"""HTTP and the command line. Imports all our packages, is imported by none.

app          the application: routes plus the rim
edge         the rim: request ids, headers every answer has, access log, unexpected errors; the route class
call         one request as the routes see it: who, for whom, what the headers ask for
context      what routes work with: fold, sender, tokens
auth         tokens and roles                     errors       the table of problems
limits       how much each caller may ask for
bodies       strict JSON                          query        strict query parameters
payloads     shapes of requests and answers       representations   answers as bytes
visibility   what each role sees of an order      card_numbers what may be in no text
orders events tracking customers reports          the routes
contact_sweep erasure                             the end of contacts
outcomes     from a command to its answer         submissions  send a command, wait for its outcome
audit        who did and saw what no event tells (with audit_spool; audit_verb shows it)
tokens_file  the tokens of a running `serve`      exposure     what others could reach or read, refused at start
cursors      signed cursors                       metrics loop_lag   what /metrics tells
patterns     what headers, names in paths and parameters look like
registry     the schema registry's own paths      system       health, metrics, documents
background   what goes on beside the requests
docs openapi asyncapi                             the descriptions of all this

transactions                                      open Kafka transactions: shown, and ended when they hang
generation beginning                              which databases to open; how `serve` begins when the log answers
rebuilding verifying                              the verbs that make and prove databases
privacy                                           what no erasure reaches
archiving exporting parquet inspection            export-log, import-log, export, tail, history, diff
cli supervisor wiring ...                         the command line and the processes it runs
terminal screens  patient_log                     what verbs write to, in any shell; the log, asked with patience
demo demo_steps demo_calls demo_inputs demo_screen   the demo; plain_consumer is its stranger
"""
