"""The HTTP facade, the processes and the command line. Imports the other packages, and is imported by none of them.

Each part imports only those below it:

cli/          the verbs
processes/    `serve`, `commands`, `sandbox`, `up`, and their composition
app           the HTTP application
routes/       one module per kind of resource; console/: static files of `/console`
replies       responses for outcomes of commands; cursors: signed positions in lists
edge          the outermost ASGI layer: request ids, common headers, access log, unexpected errors
visibility    what each role may see of an order
call          one request as the routes see it
context       dependencies of the routes: log, fold, services
connections   limits on connections; query: strict parameters; metrics: those of HTTP
callers/      who calls, and how much they may request
services/     shared by routes and background tasks; knows no HTTP
contract/     shapes of requests and answers; bodies: strict JSON; representations: domain values as JSON
ops/          files for operators: dashboard, alert rules, runbook, Kubernetes, systemd; no code
problems      every error as `application/problem+json`; settings: all but those of Kafka
"""
