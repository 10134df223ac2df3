"""An issuer of tokens on loopback: Authlib's authorisation server (RFC 6749, PKCE of RFC 7636, access tokens of RFC 9068) in
Flask, with keys that can be rotated, and documents that can be replaced by anything.

    /authorize   a form with the field `login`; whoever is in `users` may log in
    /token       authorisation code with PKCE for the public client, client credentials for `gateway`
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import ClientMixin
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant, ClientCredentialsGrant
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc9068 import JWTBearerTokenGenerator
from flask import Flask, Response, request
from joserfc import jwt
from joserfc.jwk import Key, KeySet, RSAKey, import_key
from joserfc.jws import JWSRegistry
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from api.callers.issuer import Issuer
from api.callers.issuer_rules import Rules, rules_of
from api.callers.oidc import Oidc
from api.callers.signed_tokens import TokenVerifier
from api.settings import Settings
from ledger.clock import now_ms

AUDIENCE = "https://ledger.example.org"
CONSOLE, GATEWAY, GATEWAY_SECRET = "console", "gateway", "a secret of the gateway"
ROLES = '{"shop-admin": "admin", "shop-desk": "reader", "shop-web": "gateway", "shop-ops": "operator"}'
DISCOVERY, JWKS = "/.well-known/openid-configuration", "/keys"


@dataclass
class User:
    """Somebody who may log in. `claims` are added to the access token."""

    sub: str
    claims: dict[str, Any] = field(default_factory=dict)

    def get_user_id(self) -> str:
        return self.sub


@dataclass
class Client(ClientMixin):  # type: ignore[misc]  # Authlib has no types
    """A client of the issuer: public, or with a secret."""

    client_id: str
    secret: str = ""
    claims: dict[str, Any] = field(default_factory=dict)

    def get_client_id(self) -> str:
        return self.client_id

    def get_default_redirect_uri(self) -> None:
        return None

    def get_allowed_scope(self, scope: str | None) -> str:
        return scope or ""

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri.startswith("http://127.0.0.1:")

    def check_client_secret(self, client_secret: str) -> bool:
        return bool(self.secret) and client_secret == self.secret

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return (method == "none") == (not self.secret)

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == ("client_credentials" if self.secret else "authorization_code")


@dataclass
class Code:
    """An authorisation code that was not used yet."""

    user: User
    client_id: str
    redirect_uri: str
    scope: str
    code_challenge: str
    code_challenge_method: str

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope


def rsa_key(kid: str, **parameters: Any) -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": kid, **parameters})  # type: ignore[arg-type]


class RunningIssuer:
    """The issuer, until `stop`; `start` brings it back on its port.

    `published`: the keys in its key set; the first one signs. `instead`: by path, (status, body, headers) that are answered
    instead. `asked` counts requests by path. While `answering` is not set, nothing is answered.
    """

    def __init__(self) -> None:
        self.published: list[Key] = [rsa_key("first", use="sig", alg="RS256")]
        self.users = {"ada": User("u-ada", {"roles": ["shop-admin"]})}
        self.clients = {CONSOLE: Client(CONSOLE), GATEWAY: Client(GATEWAY, GATEWAY_SECRET, {"roles": ["shop-web"]})}
        self.instead: dict[str, tuple[int, bytes, Mapping[str, str]]] = {}
        self.asked: Counter[str] = Counter()
        self.answering = threading.Event()
        self.answering.set()
        self._codes: dict[str, Code] = {}
        self._port = 0
        self._app = self._flask()
        self.start()

    # ---- tokens

    def rotate(self, kid: str) -> None:
        """Sign with a new key. The old ones stay published."""
        self.published.insert(0, rsa_key(kid, use="sig", alg="RS256"))

    def claims(self, now_s: float | None = None, **changes: Any) -> dict[str, Any]:
        """The claims of a valid access token, with `changes`; one of None is left out."""
        now = int(time.time() if now_s is None else now_s)
        valid = {"iss": self.url, "aud": AUDIENCE, "sub": "u-1", "roles": ["shop-desk"], "iat": now, "exp": now + 600}
        return {name: value for name, value in (valid | changes).items() if value is not None}

    def token(self, now_s: float | None = None, **changes: Any) -> str:
        """A genuine access token with these claims."""
        return sign(self.claims(now_s, **changes), self.published[0])

    # ---- HTTP

    def start(self) -> None:
        self._server: BaseWSGIServer = make_server("127.0.0.1", self._port, self._app, threaded=True, request_handler=_Quiet)
        self._port = self._server.port
        self.url = f"http://127.0.0.1:{self._port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, name="issuer")
        self._thread.start()

    def stop(self) -> None:
        self.answering.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def documents(self) -> dict[str, Any]:
        return {
            DISCOVERY: {
                "issuer": self.url,
                "jwks_uri": f"{self.url}{JWKS}",
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
                "code_challenge_methods_supported": ["S256"],
            },
            JWKS: {"keys": [key.as_dict(private=False) for key in self.published]},
        }

    def _flask(self) -> Flask:
        app = Flask("issuer")
        app.before_request(self._before)
        app.after_request(_allow_browsers)
        server = AuthorizationServer(app, query_client=self.clients.get, save_token=lambda token, request: None)
        server.register_token_generator("default", _AccessTokens(self))
        server.register_grant(_code_grant(self), [CodeChallenge(required=True)])
        server.register_grant(_ClientCredentials)
        app.add_url_rule("/authorize", view_func=lambda: self._authorize(server), methods=["GET", "POST"], endpoint="authorize")
        app.add_url_rule("/token", view_func=server.create_token_response, methods=["POST"], endpoint="token")
        for path in (DISCOVERY, JWKS):
            app.add_url_rule(path, view_func=lambda path=path: self.documents()[path], endpoint=path.replace(".", "-"))
        return app

    def _before(self) -> Response | None:
        self.asked[request.path] += 1
        self.answering.wait()
        if request.path in self.instead:
            status, body, headers = self.instead[request.path]
            return Response(body, status, dict(headers))
        return None

    def _authorize(self, server: Any) -> Any:
        try:
            grant = server.get_consent_grant(end_user=None)
        except OAuth2Error as error:
            return Response(json.dumps(dict(error.get_body())), 400, content_type="application/json")
        user = self.users.get(request.form.get("login", ""))
        if request.method == "GET" or user is None:
            return Response(
                '<!doctype html><title>Log in</title><form method="post"><input name="login"><button>Log in</button></form>'
            )
        return server.create_authorization_response(grant_user=user, grant=grant)


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        pass


def _allow_browsers(response: Response) -> Response:
    response.headers["Access-Control-Allow-Origin"] = "*"
    return response


class _AccessTokens(JWTBearerTokenGenerator):  # type: ignore[misc]
    """Access tokens as of RFC 9068, signed with the issuer's current key."""

    def __init__(self, issuer: RunningIssuer) -> None:
        super().__init__("", expires_generator=lambda client, grant_type: 600)
        self._running = issuer

    def access_token_generator(self, *args: Any, **kwargs: Any) -> Any:
        self.issuer = self._running.url
        return super().access_token_generator(*args, **kwargs)

    def get_jwks(self) -> KeySet:
        return KeySet([self._running.published[0]])

    def get_audiences(self, client: Client, user: User | None, scope: str) -> str:
        return AUDIENCE

    def get_extra_claims(self, client: Client, grant_type: str, user: User | None, scope: str) -> dict[str, Any]:
        return (client if user is None else user).claims


class _ClientCredentials(ClientCredentialsGrant):  # type: ignore[misc]
    TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic",)


def _code_grant(issuer: RunningIssuer) -> type:
    codes = issuer._codes

    class Grant(AuthorizationCodeGrant):  # type: ignore[misc]
        TOKEN_ENDPOINT_AUTH_METHODS = ("none",)

        def save_authorization_code(self, code: str, request: Any) -> None:
            asked = request.payload
            challenge = (asked.data.get("code_challenge", ""), asked.data.get("code_challenge_method", ""))
            codes[code] = Code(request.user, asked.client_id, asked.redirect_uri, asked.scope or "", *challenge)

        def query_authorization_code(self, code: str, client: Client) -> Code | None:
            saved = codes.get(code)
            return saved if saved is not None and saved.client_id == client.client_id else None

        def delete_authorization_code(self, authorization_code: Code) -> None:
            for code in [code for code, saved in codes.items() if saved is authorization_code]:
                del codes[code]

        def authenticate_user(self, authorization_code: Code) -> User:
            return authorization_code.user

    return Grant


def sign(claims: Mapping[str, Any], key: Key, *, algorithm: str = "RS256", typ: str | None = "at+jwt", **header: Any) -> str:
    """A token signed with any key by any algorithm, whatever the key is for and the header contains."""
    whole = {"alg": algorithm, "kid": key.kid, "typ": typ} | header
    present = {name: value for name, value in whole.items() if value is not None}
    bare = {name: value for name, value in key.as_dict(private=True).items() if name not in ("use", "alg", "key_ops")}
    registry = JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    return jwt.encode(present, dict(claims), import_key(bare), registry=registry, default_type=None)


@contextmanager
def running_issuer() -> Iterator[RunningIssuer]:
    issuer = RunningIssuer()
    try:
        yield issuer
    finally:
        issuer.stop()


# ---- the other side ---------------------------------------------------------------------------------------------------


class Clocks:
    """The clocks of the ledger's side, which only a test moves."""

    def __init__(self) -> None:
        self.now_ms, self.monotonic_s = now_ms(), 0.0

    def pass_s(self, seconds: float) -> None:
        self.now_ms += int(seconds * 1000)
        self.monotonic_s += seconds


def rules(url: str, **changes: Any) -> Rules:
    """The rules for the issuer at `url`."""
    chosen = {"oidc_issuer": url, "oidc_audience": AUDIENCE, "oidc_roles": ROLES} | changes
    checked = rules_of(Settings(_env_file=None, **chosen))  # type: ignore[call-arg]
    assert checked is not None
    return checked


def trusting(url: str, clocks: Clocks, file: Path | None = None, **changes: Any) -> Oidc:
    """What `serve` makes of the settings, with clocks of the test. It has fetched nothing yet."""
    of_url = rules(url, **changes)
    verifier = TokenVerifier(of_url)
    clock: Callable[[], int] = lambda: clocks.now_ms  # noqa: E731
    return Oidc(of_url, Issuer(of_url, verifier, file, clock, lambda: clocks.monotonic_s), verifier, clock)
