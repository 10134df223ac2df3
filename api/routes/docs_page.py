"""`/docs`, for development: a page on which to read and try the API. Works without a network: its scripts and styles come from a
package (`fastapi-offline`, which ships Swagger UI), and its content security policy permits nothing from elsewhere.

No token is needed. The page embeds the OpenAPI document, because `/openapi.json` needs one.
"""

from __future__ import annotations

from importlib.resources import files

from fastapi import FastAPI
from starlette.responses import Response

from api.call import Call
from api.problems import Problem
from api.representations import to_json
from api.routes.system import cached

# Names of the package's files, with the types that `nosniff` makes browsers insist on.
ASSETS = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
}
_PAGE = b"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Order Ledger</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</html>
"""
# Swagger UI sets styles of elements, and has its icons in its style sheet as `data:` addresses.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SETTINGS = {
    "dom_id": "#swagger-ui",
    "deepLinking": True,
    "persistAuthorization": True,
    "validatorUrl": None,  # else the page sends the document to a public validator
}


def add_docs_page(app: FastAPI) -> None:
    """Add the page and its files, which are no part of the OpenAPI document."""
    app.router.add_api_route("/docs", docs_page, methods=["GET"], include_in_schema=False)
    app.router.add_api_route("/docs/start.js", start_script, methods=["GET"], include_in_schema=False)
    app.router.add_api_route("/docs/{asset}", read_asset, methods=["GET"], include_in_schema=False)


async def docs_page(call: Call) -> Response:
    """The page."""
    return Response(_PAGE, 200, {"Content-Security-Policy": _POLICY}, "text/html; charset=utf-8")


async def start_script(call: Call) -> Response:
    """The script that shows the document."""

    def script() -> bytes:
        return b"SwaggerUIBundle(" + to_json(_SETTINGS | {"spec": call.app.openapi()}) + b");\n"

    return Response(await cached(call, "docs start", script), 200, None, "text/javascript; charset=utf-8")


async def read_asset(call: Call) -> Response:
    """A file of the package."""
    name: str = call.path_params["asset"]
    if name not in ASSETS:
        raise Problem("not-found")
    return Response(await cached(call, f"docs {name}", lambda: _asset(name)), 200, None, ASSETS[name])


def _asset(name: str) -> bytes:
    import fastapi_offline

    return (files(fastapi_offline) / "static" / name).read_bytes()
