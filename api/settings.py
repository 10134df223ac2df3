"""Settings from the environment (and `.env`), read once at start. Secrets are `SecretStr`: printing one shows stars.

`.env.example` lists every name.
"""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings

from ledger.environment import ENVIRONMENT, load
from ledger.errors import ConfigError
from ledger.topics import Topics
from ledger.transitions import MAX_PAYMENT_WINDOW_S

Env = Literal["development", "production"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

PLAINTEXT = frozenset({"kafka", "smtp", "sms", "stock"})


class Settings(BaseSettings):
    """Everything but Kafka. Names without a prefix are the shop's own and keep their spelling."""

    model_config = ENVIRONMENT

    app_env: Env | None = Field(
        default=None,
        description="development or production, which has no /docs and no sandbox; none: production in the Docker image, "
        "development elsewhere, and then only on a loopback HOST",
    )
    allow_plaintext: str = Field(
        default="", description="what production may send unencrypted: kafka, smtp, sms, stock, with commas; none: nothing"
    )
    host: str = Field(default="127.0.0.1", description="interface that `serve` listens on")
    port: int = Field(default=8000, ge=0, le=65535, description="port of the HTTP API; 0 takes a free one")

    max_connections: int = Field(
        default=8192,
        ge=64,
        le=60_000,
        description="connections that `serve` keeps open; one more takes the place of one that rests. Fewer where the limit of "
        "open files is lower",
    )
    max_connections_per_address: int = Field(
        default=4096,
        ge=1,
        le=60_000,
        description="the same for one client address (IPv6: one /64); trusted proxies have no such bound",
    )
    trusted_proxies: str = Field(
        default="",
        description="addresses and networks of proxies in front, with commas: their X-Forwarded-For and X-Forwarded-Proto count, "
        "everybody else's are ignored; none: nobody's count",
    )

    topic_prefix: str = Field(
        default="", pattern=r"^[A-Za-z0-9._-]{0,64}$", description="in front of every topic name: several ledgers on one cluster"
    )
    partitions: int = Field(default=4, ge=1, le=1000, description="of the order topics when they are created; fixed for ever")
    writers: int = Field(
        default=1, ge=1, le=1000, description="partitions of order-writers when it is created; fixed like `partitions`"
    )
    app_id: str = Field(
        default="order-ledger", pattern=r"^[A-Za-z0-9._-]{1,100}$", description="prefix of transactional ids and groups"
    )
    node_id: str = Field(
        default_factory=socket.gethostname, description="stable name of this process's place: group instance and Faust app id"
    )
    state_dir: Path = Field(default=Path(".ledger/state"), description="databases of `commands` and `serve`")
    schema_registry_url: str | None = Field(
        default=None, description="a registry that must hold the same schemas under the same ids; none: `serve` is the registry"
    )

    ledger_hash_key: SecretStr | None = Field(
        default=None, description="key of fingerprints and contact digests, at least 16 characters"
    )
    ledger_tokens_file: Path | None = Field(default=None, description="who may call the API: names, roles, token hashes (JSON)")
    ledger_tokens: SecretStr | None = Field(
        default=None, description="the same JSON as the file, for platforms that only have variables"
    )
    limit_gateway_per_second: int = Field(
        default=10_000,
        ge=1,
        le=1_000_000,
        description="requests of one gateway principal, on each node; ten seconds' worth may come at once. Long work of a "
        "request counts as one more for each millisecond",
    )
    limit_customer_per_second: int = Field(
        default=100, ge=1, le=1_000_000, description="the same of one customer that gateways act for"
    )
    limit_staff_per_second: int = Field(default=250, ge=1, le=1_000_000, description="the same of one admin, reader or operator")
    currencies: str = Field(default="EUR,USD,GBP", description="currencies that orders may have")
    payment_window_seconds: int = Field(
        default=30 * 60,
        ge=1,
        le=MAX_PAYMENT_WINDOW_S,
        description="an unpaid order expires after this, unless it asked for another time to pay; recorded in the order, so old "
        "orders keep theirs",
    )
    payment_window_min_seconds: int = Field(
        default=60, ge=1, le=MAX_PAYMENT_WINDOW_S, description="least `payment_window_seconds` that an order may ask for"
    )
    payment_window_max_seconds: int = Field(
        default=MAX_PAYMENT_WINDOW_S, ge=1, le=MAX_PAYMENT_WINDOW_S, description="most that an order may ask for; below a day"
    )
    contact_retention_days: int | None = Field(
        default=None, ge=1, le=36_500, description="a contact is deleted so long after its order ended; none: only on request"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR")

    payment_gateway_api_key: SecretStr | None = Field(default=None, description="publishable key of the payment provider")
    payment_gateway_secret_key: SecretStr | None = Field(
        default=None, description="secret key of the payment provider (Stripe); none: the sandbox, which production refuses"
    )
    payment_gateway_webhook_secrets: SecretStr | None = Field(
        default=None, description="signing secrets of the webhook endpoint: one, or two with a comma while they are rotated"
    )
    payment_gateway_account: str | None = Field(
        default=None, pattern=r"^acct_[A-Za-z0-9]{1,64}$", description="account that webhooks must come from; none: any"
    )
    product_service_url: str | None = Field(default=None, description="coffee stock over HTTP")
    product_service_grpc_target: str | None = Field(default=None, description="coffee stock over gRPC")
    merch_service_url: str | None = Field(default=None, description="merchandise stock over HTTP")
    merch_service_grpc_target: str | None = Field(default=None, description="merchandise stock over gRPC")
    outside_timeout_ms: int = Field(
        default=10_000, ge=100, le=60_000, description="longest wait for an answer of the provider or a stock service"
    )
    sandbox_url: str | None = Field(
        default=None, description="stand-in for whatever of the above is not set (`order-ledger sandbox`); loopback only"
    )
    sandbox_webhook_url: str | None = Field(
        default=None, description="where the sandbox sends the provider's messages: `serve`'s /webhooks/stripe"
    )

    notify_email_url: SecretStr | None = Field(
        default=None,
        description="where e-mail goes: smtp://, smtps:// or smtp+starttls://user:password@host:port; none: files, which "
        "production refuses",
    )
    notify_sms_url: SecretStr | None = Field(
        default=None, description="where text messages go, as an Apprise URL: twilio://sid:token@from; none: no text messages"
    )
    notify_from: str = Field(default="Shop <shop@localhost>", description="sender of e-mail")
    outbox_dir: Path = Field(default=Path(".ledger/outbox"), description="`.eml` files of e-mail, where no URL is set for it")

    @field_validator("allow_plaintext")
    @classmethod
    def _plaintext_is_known(cls, value: str) -> str:
        if unknown := sorted(_words(value) - PLAINTEXT):
            raise ValueError(f"{', '.join(unknown)} is none of {', '.join(sorted(PLAINTEXT))}")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies_are_networks(cls, value: str) -> str:
        for network in networks(value):
            if network.prefixlen == 0:
                raise ValueError(f"{network} is everybody: name the proxies")
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
    def proxies(self) -> tuple[Network, ...]:
        return networks(self.trusted_proxies)

    @property
    def plaintext_allowed(self) -> frozenset[str]:
        return _words(self.allow_plaintext)

    def hash_key(self) -> bytes:
        """Key of the keyed hashes. Raises `ConfigError` when it is missing or short."""
        if self.ledger_hash_key is None:
            raise ConfigError("LEDGER_HASH_KEY is not set. Make one: python -c 'import secrets; print(secrets.token_hex(32))'")
        key = self.ledger_hash_key.get_secret_value().encode()
        if len(key) < 16:
            raise ConfigError("LEDGER_HASH_KEY is shorter than 16 characters")
        return key


def networks(text: str) -> tuple[Network, ...]:
    """The addresses and networks in `text`, which has commas between them. Raises `ValueError` naming what is none."""
    return tuple(ipaddress.ip_network(word) for word in sorted(_words(text)))


def _words(text: str) -> frozenset[str]:
    return frozenset(word.strip() for word in text.split(",") if word.strip())


def load_settings() -> Settings:
    """Settings from the environment. Raises `ConfigError` naming every bad variable, never its value."""
    return load(Settings)
