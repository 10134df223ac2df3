"""The HTTP facade, the processes and the command line. Imports all our packages, is imported by none.

Each imports only what is below it:

cli/          the verbs
processes/    `serve`, `commands`, `sandbox`, `up`, and what puts them together
app           the HTTP application
routes/       a module per kind of resource
replies       from what became of a command to its response; cursors: signed positions in lists
edge          the outermost ASGI layer: request ids, common headers, access log, unexpected errors
visibility    what each role sees of an order
call          one request as the routes see it
context       what routes work with: log, fold, services
connections   the connections of the server, bounded; query: strict parameters; metrics: what /metrics says
callers/      who calls, and how much they may ask for
services/     what routes and background work share; knows no HTTP
contract/     what requests and answers look like; bodies: strict JSON; representations: the ledger's values as JSON
problems      every error as `application/problem+json`; settings: everything but Kafka's
"""
