"""`/console`: the desk's screens, as static files of this package. No token is needed for them, and they contain no data.

They call nothing but the HTTP API, with the token of whoever uses them, and the token endpoint of the issuer where people log in.
Their content security policy permits scripts, styles and requests of this origin alone, and requests to that endpoint's.
A file is checked for changes at each use (`ETag`): an upgrade is seen at the next load.
"""

from __future__ import annotations

import hashlib
import re
from importlib.resources import files
from urllib.parse import urlsplit

from fastapi import APIRouter
from starlette.responses import Response

from api.call import Call
from api.callers.oidc import Oidc
from api.problems import Problem
from api.routes.system import cached

PAGE = "index.html"
_FOLDER = files("api") / "console"
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+")  # nothing that would end a directive
# By the suffix of a file, because `nosniff` makes browsers insist on the type. A file with another suffix is not served.
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
}


def add_routes(router: APIRouter) -> None:
    """Register the page and its files, which are no part of the OpenAPI document."""
    router.add_api_route("/console", console_page, methods=["GET"], include_in_schema=False)
    router.add_api_route("/console/{asset}", read_asset, methods=["GET"], include_in_schema=False)


async def console_page(call: Call) -> Response:
    """The page. Its files are below `/console/`, to which its addresses are relative."""
    return await _file(call, PAGE)


async def read_asset(call: Call) -> Response:
    """A file of the page."""
    name: str = call.path_params["asset"]
    if name == PAGE or name not in names():
        raise Problem("not-found")
    return await _file(call, name)


def names() -> frozenset[str]:
    """The files of the console that are served."""
    return frozenset(path.name for path in _FOLDER.iterdir() if _type_of(path.name) is not None)


def _type_of(name: str) -> str | None:
    return TYPES.get(name[name.rfind(".") :])


async def _file(call: Call, name: str) -> Response:
    body = await cached(call, f"console {name}", (_FOLDER / name).read_bytes)
    policy = policy_of(call.ctx.oidc)
    tag = f'"{hashlib.sha256(policy.encode() + body).hexdigest()[:32]}"'
    call.exchange.may_be_kept = True
    if tag in (call.header(b"if-none-match") or ""):
        return Response(None, 304, {"ETag": tag})
    return Response(body, 200, _HEADERS | {"Content-Security-Policy": policy, "ETag": tag}, _type_of(name))


def policy_of(oidc: Oidc | None) -> str:
    """The content security policy: with the origin of the issuer's token endpoint, if the console logs people in there."""
    if oidc is None or oidc.rules.console is None:
        return POLICY
    parts = urlsplit(oidc.issuer.discovery.token_endpoint)
    origin = f"{parts.scheme}://{parts.netloc}"
    return POLICY.replace("connect-src 'self'", f"connect-src 'self' {origin}") if _ORIGIN.fullmatch(origin) else POLICY
