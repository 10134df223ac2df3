"""The reference: a FastAPI application that validates the same body with the same model and does nothing.

It is what a FastAPI service costs before it does anything: the ordinary body parameter, a small JSON answer, no check of a
token, nothing stored. Served by uvicorn on uvloop and httptools with the options that `serve` uses.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import threading

import uvicorn
import uvloop
from fastapi import FastAPI

from api.contract.examples import ORDER_ID
from api.contract.requests import PlaceOrderBody
from projections.faust_app import UVICORN_OPTIONS

app = FastAPI()


@app.post("/orders", status_code=201)
async def place_order(body: PlaceOrderBody) -> dict[str, object]:
    return {"order_id": ORDER_ID, "version": 1, "status": "pending", "total_minor": body.total_minor}


@app.get("/orders/{order_id}")
async def read_order(order_id: str) -> dict[str, object]:
    return {"order_id": order_id, "version": 1, "status": "pending"}


def main() -> None:
    """Serve on a free port, printed as a line of JSON, until standard input ends."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, access_log=False, loop="none", **UVICORN_OPTIONS)
    config.load()
    protocol = config.http_protocol_class
    stack = protocol.__name__ if isinstance(protocol, type) else str(protocol)
    threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()
    print(json.dumps({"port": listener.getsockname()[1], "stack": stack}), flush=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(uvicorn.Server(config).serve(sockets=[listener]))


if __name__ == "__main__":
    main()
