"""Settings from the environment and `.env`, read once at start. Secrets are `SecretStr`, which prints stars.

`.env.example` lists every setting.
"""

from __future__ import annotations

import ipaddress
import socket
from datetime import UTC, tzinfo
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings

from ledger.bounds import LANGUAGE_TAG, MAX_LANGUAGE_TAG
from ledger.currencies import digits
from ledger.environment import ENVIRONMENT, load
from ledger.errors import ConfigError
from ledger.topics import Topics
from ledger.transitions import MAX_PAYMENT_WINDOW_S

Env = Literal["development", "production"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

PLAINTEXT = frozenset({"kafka", "oidc", "smtp", "sms", "stock", "webhooks"})


class Settings(BaseSettings):
    """All settings except those of Kafka. Names without a prefix are the shop's own and keep their spelling."""

    model_config = ENVIRONMENT

    app_env: Env | None = Field(
        default=None,
        description="development or production; production has no /docs and no sandbox. Default: production in the Docker image, "
        "elsewhere development, which then requires a loopback HOST",
    )
    allow_plaintext: str = Field(
        default="",
        description="connections that may be unencrypted in production, comma-separated: kafka, oidc, smtp, sms, stock, webhooks",
    )
    allow_few_replicas: bool = Field(
        default=False,
        description="true: production also starts on a cluster that may lose accepted orders when one broker fails (fewer than "
        "three replicas, or two in sync)",
    )
    host: str = Field(default="127.0.0.1", description="interface on which `serve` listens")
    port: int = Field(default=8000, ge=0, le=65535, description="port of the HTTP API; 0 picks a free one")

    max_connections: int = Field(
        default=8192,
        ge=64,
        le=60_000,
        description="connections that `serve` keeps open; another one replaces an idle one. Lower if the limit of open files is "
        "lower",
    )
    max_connections_per_address: int = Field(
        default=4096,
        ge=1,
        le=60_000,
        description="the same for one client address (IPv6: one /64); does not apply to trusted proxies",
    )
    trusted_proxies: str = Field(
        default="",
        description="addresses and networks of reverse proxies, comma-separated: X-Forwarded-For and X-Forwarded-Proto are "
        "honoured only from these",
    )

    topic_prefix: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9._-]{0,64}$",
        description="prefix of every topic, group and transactional id, for several ledgers on one cluster",
    )
    partitions: int = Field(
        default=4,
        ge=1,
        le=1000,
        description="partitions of the order topics, used when they are created; changed by `order-ledger copy-log`",
    )
    writers: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="partitions of order-writers, used when it is created; changed by `order-ledger writers set`",
    )
    standby_writers: int = Field(
        default=1,
        ge=0,
        le=1000,
        description="writers that a `commands` follows besides its own, to take them over within seconds",
    )
    metrics_host: str = Field(
        default="127.0.0.1", description="address of the health and metrics of `commands` and `sandbox`; `up` chooses its own"
    )
    metrics_port: int = Field(
        default=0, ge=0, le=65535, description="their port; 0: any free one, named in `STATE_DIR/commands/status.json`"
    )
    app_id: str = Field(
        default="order-ledger",
        pattern=r"^[A-Za-z0-9._-]{1,100}$",
        description="begins transactional ids and consumer groups, after `TOPIC_PREFIX`",
    )
    node_id: str = Field(
        default_factory=socket.gethostname, description="stable name of this node: group instance id and Faust app id"
    )
    state_dir: Path = Field(default=Path(".ledger/state"), description="databases of `commands` and `serve`")
    schema_registry_url: str | None = Field(
        default=None,
        description="a registry that must have the same schemas under the same ids; without it, `serve` is the registry",
    )

    ledger_hash_key: SecretStr | None = Field(
        default=None, description="key of fingerprints, contact digests and webhook secrets, at least 16 characters"
    )
    ledger_tokens_file: Path | None = Field(
        default=None, description="JSON file of the API's callers: names, roles, token hashes"
    )
    ledger_tokens: SecretStr | None = Field(
        default=None, description="the content of that file, for platforms that only have variables"
    )
    oidc_issuer: str | None = Field(
        default=None,
        description="OpenID Connect: who signs the JWTs that are accepted beside those tokens, exactly as in their `iss`, such "
        "as https://login.example.org/realms/shop",
    )
    oidc_audience: str = Field(default="", description="values of `aud`, comma-separated, of which a JWT must have one")
    oidc_algorithms: str = Field(
        default="RS256,ES256",
        description="algorithms of signatures, comma-separated: RS256 to RS512, PS256 to PS512, ES256 to ES512, Ed25519, EdDSA",
    )
    oidc_token_types: str = Field(
        default="at+jwt,JWT",
        description="values of the header `typ`, comma-separated. With at+jwt alone, only access tokens of RFC 9068 are accepted",
    )
    oidc_leeway_seconds: int = Field(
        default=30, ge=0, le=300, description="how far the clock of the issuer may differ from this machine's"
    )
    oidc_jwks_url: str | None = Field(
        default=None, description="where the issuer publishes its keys; default: as its discovery document says"
    )
    oidc_name_claim: str = Field(
        default="sub",
        description="claim with the name of a caller: a claim's name, or a JSON pointer into the claims, such as /act/sub. Names "
        "are kept in the log for ever",
    )
    oidc_role_claim: str = Field(default="roles", description="claim with the roles of a caller, such as /realm_access/roles")
    oidc_roles: str = Field(
        default="",
        description='values of that claim as a JSON object, such as {"shop-desk": "admin"}; the first one that a JWT has counts',
    )
    oidc_customer_claim: str = Field(
        default="",
        description="claim with the only customer for whom a gateway may act; `*` is every customer. Without this setting, "
        "gateways act for every customer",
    )
    oidc_console_client_id: str | None = Field(
        default=None, description="public client with which the console logs people in (PKCE)"
    )
    oidc_console_scopes: str = Field(default="openid", description="scopes that the console asks for, separated by spaces")
    oidc_console_parameters: str = Field(
        default="",
        description="further parameters of the console's authorisation request, as a query string, such as "
        "audience=https://ledger.example.org",
    )
    backup_recipients: str = Field(
        default="",
        description="public keys (age1...), comma-separated, for which `backup` encrypts contacts; `order-ledger backup-key` "
        "creates a pair",
    )
    backup_identity: SecretStr | None = Field(
        default=None,
        description="secret key (AGE-SECRET-KEY-1...) of one of them, only for `restore`: keep it away from the machine that "
        "makes backups",
    )
    limit_gateway_per_second: int = Field(
        default=10_000,
        ge=1,
        le=1_000_000,
        description="requests per second of one gateway, on each node, with bursts of ten seconds' worth. Long work counts as "
        "one more request per millisecond",
    )
    limit_customer_per_second: int = Field(default=100, ge=1, le=1_000_000, description="the same for one customer of a gateway")
    limit_staff_per_second: int = Field(default=250, ge=1, le=1_000_000, description="the same for one admin, reader or operator")
    currencies: str = Field(default="EUR,USD,GBP", description="currencies of orders, comma-separated")
    payment_window_seconds: int = Field(
        default=30 * 60,
        ge=1,
        le=MAX_PAYMENT_WINDOW_S,
        description="time to pay: an unpaid order expires after it, unless the order sets its own. Recorded in the order, so "
        "changes affect only new orders",
    )
    payment_window_min_seconds: int = Field(
        default=60, ge=1, le=MAX_PAYMENT_WINDOW_S, description="minimum of the `payment_window_seconds` of an order"
    )
    payment_window_max_seconds: int = Field(
        default=MAX_PAYMENT_WINDOW_S, ge=1, le=MAX_PAYMENT_WINDOW_S, description="maximum of it; less than a day"
    )
    contact_retention_days: int | None = Field(
        default=None,
        ge=1,
        le=36_500,
        description="days after the end of its order until a contact is deleted; without it, only on request",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR")

    payment_gateway_api_key: SecretStr | None = Field(default=None, description="publishable key of the payment provider")
    payment_gateway_secret_key: SecretStr | None = Field(
        default=None,
        description="secret key of the payment provider (Stripe); without it, the sandbox is used, which production refuses",
    )
    payment_gateway_webhook_secrets: SecretStr | None = Field(
        default=None, description="signing secret of the webhook endpoint; two, comma-separated, during rotation"
    )
    payment_gateway_account: str | None = Field(
        default=None, pattern=r"^acct_[A-Za-z0-9]{1,64}$", description="account from which webhooks must come; default: any"
    )
    product_service_url: str | None = Field(default=None, description="stock service for coffee over HTTP")
    product_service_grpc_target: str | None = Field(default=None, description="stock service for coffee over gRPC")
    merch_service_url: str | None = Field(default=None, description="stock service for merchandise over HTTP")
    merch_service_grpc_target: str | None = Field(default=None, description="stock service for merchandise over gRPC")
    outside_timeout_ms: int = Field(
        default=10_000, ge=100, le=60_000, description="maximum wait for an answer of the payment provider or a stock service"
    )
    sandbox_url: str | None = Field(
        default=None, description="stand-in for the services above that are not set (`order-ledger sandbox`); loopback only"
    )
    sandbox_webhook_url: str | None = Field(
        default=None, description="where the sandbox sends webhooks: /webhooks/stripe of `serve`"
    )

    webhooks_allow_private: bool = Field(
        default=False,
        description="true: events are also delivered to webhook endpoints with loopback, private and link-local addresses",
    )

    notify_email_url: SecretStr | None = Field(
        default=None,
        description="mail server: smtp://, smtps:// or smtp+starttls://user:password@host:port; without it, e-mails are written "
        "to files, which production refuses",
    )
    notify_sms_url: SecretStr | None = Field(
        default=None,
        description="text message service as an Apprise URL, such as twilio://sid:token@from; without it, none are sent",
    )
    notify_from: str = Field(default="Shop <shop@localhost>", description="sender of e-mail; its name is that of the shop")
    notify_templates_dir: Path | None = Field(
        default=None,
        description="folder with the shop's own templates of messages, such as `de/placed.email.html`; each replaces the shipped "
        "one of that name",
    )
    notify_language: str = Field(
        default="en",
        pattern=f"^(?:{LANGUAGE_TAG})$",
        max_length=MAX_LANGUAGE_TAG,
        description="language of messages to customers whose own is not known or has no templates, such as de-AT",
    )
    notify_time_zone: str = Field(default="UTC", description="time zone of dates in messages, such as Europe/Vienna")
    outbox_dir: Path = Field(
        default=Path(".ledger/outbox"), description="directory for e-mails as `.eml` files, if no mail server is set"
    )

    @field_validator("allow_plaintext")
    @classmethod
    def _plaintext_is_known(cls, value: str) -> str:
        if unknown := sorted(_words(value) - PLAINTEXT):
            raise ValueError(f"{', '.join(unknown)} is not one of {', '.join(sorted(PLAINTEXT))}")
        return value

    @field_validator("currencies")
    @classmethod
    def _currencies_exist(cls, value: str) -> str:
        unknown = sorted(word for word in _words(value) if digits(word.upper()) is None)
        if unknown or not _words(value):
            raise ValueError(f"{', '.join(unknown) or 'nothing'}: give codes of ISO 4217 with commas, for instance EUR,JPY")
        return value

    @field_validator("notify_time_zone")
    @classmethod
    def _time_zone_exists(cls, value: str) -> str:
        _zone(value)
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies_are_networks(cls, value: str) -> str:
        for network in networks(value):
            if network.prefixlen == 0:
                raise ValueError(f"{network} includes every address: name the proxies")
        return value

    @model_validator(mode="after")
    def _writers_fit(self) -> Settings:
        if self.writers > self.partitions:
            raise ValueError("WRITERS must not be larger than PARTITIONS")
        return self

    @model_validator(mode="after")
    def _window_has_bounds(self) -> Settings:
        if self.payment_window_min_seconds > self.payment_window_max_seconds:
            raise ValueError("PAYMENT_WINDOW_MIN_SECONDS must not be larger than PAYMENT_WINDOW_MAX_SECONDS")
        return self

    @property
    def topics(self) -> Topics:
        return Topics(self.topic_prefix)

    @property
    def allowed_currencies(self) -> frozenset[str]:
        return frozenset(c.upper() for c in _words(self.currencies))

    @property
    def time_zone(self) -> tzinfo:
        """That of dates in messages."""
        return _zone(self.notify_time_zone)

    @property
    def proxies(self) -> tuple[Network, ...]:
        return networks(self.trusted_proxies)

    @property
    def plaintext_allowed(self) -> frozenset[str]:
        return _words(self.allow_plaintext)

    @property
    def plain_webhooks_allowed(self) -> bool:
        """Whether the URL of a webhook endpoint may begin with http."""
        return self.app_env != "production" or "webhooks" in self.plaintext_allowed

    @property
    def ledger_id(self) -> str:
        """Begins the names that the ledgers of one cluster must not share: transactional ids and consumer groups."""
        return f"{self.topic_prefix}{self.app_id}"

    def hash_key(self) -> bytes:
        """Key of the keyed hashes. Raises `ConfigError` if it is missing or too short."""
        if self.ledger_hash_key is None:
            raise ConfigError(
                "LEDGER_HASH_KEY is not set. Create one with: python -c 'import secrets; print(secrets.token_hex(32))'"
            )
        key = self.ledger_hash_key.get_secret_value().encode()
        if len(key) < 16:
            raise ConfigError("LEDGER_HASH_KEY is shorter than 16 characters")
        return key


def networks(text: str) -> tuple[Network, ...]:
    """The comma-separated addresses and networks in `text`. Raises `ValueError` naming an invalid one."""
    return tuple(ipaddress.ip_network(word) for word in sorted(_words(text)))


def _zone(name: str) -> tzinfo:
    """Raises `ValueError` if this machine has no such time zone."""
    if name == "UTC":
        return UTC  # known without a database of time zones
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError("not a time zone of this machine: give a name such as Europe/Vienna") from None


def _words(text: str) -> frozenset[str]:
    return frozenset(word.strip() for word in text.split(",") if word.strip())


def load_settings() -> Settings:
    """Settings from the environment. Raises `ConfigError` naming every invalid variable, never its value."""
    return load(Settings)


def program_version() -> str:
    """Version of the installed program; `0` in a source tree that is not installed."""
    try:
        return version("order-ledger")
    except PackageNotFoundError:
        return "0"
