"""Settings from the environment (and `.env`), read once at start. Secrets are `SecretStr`: printing one shows stars.

`.env.example` lists every name; the README has the table. Nothing here opens a connection or a file but `.env`.
"""

from __future__ import annotations

import ipaddress
import socket
import sys
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ledger import generated_blocks
from ledger.errors import ConfigError
from ledger.topics import Topics
from ledger.transitions import MAX_PAYMENT_WINDOW_S

Env = Literal["development", "production"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
S = TypeVar("S", bound=BaseSettings)

PLAINTEXT = frozenset({"kafka", "smtp", "sms", "stock"})

ENV_FILE = ".env"  # in the directory where the process is started; in UTF-8, with or without a mark at its beginning
ENVIRONMENT = SettingsConfigDict(env_file=ENV_FILE, env_file_encoding="utf-8-sig", env_ignore_empty=True, extra="ignore")
SETTINGS_BEGIN = generated_blocks.begin("settings")


class KafkaSettings(BaseSettings):
    """How to reach the cluster. One group for every client of the project (DESIGN 6)."""

    model_config = SettingsConfigDict(
        env_prefix="KAFKA_", env_file=ENV_FILE, env_file_encoding="utf-8-sig", env_ignore_empty=True, extra="ignore"
    )

    bootstrap_servers: str = Field(default="127.0.0.1:9092", description="the cluster, host:port with commas")
    client_id: str = Field(default="order-ledger", description="how the clients name themselves to the brokers")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"
    )
    ssl_ca_location: Path | None = Field(default=None, description="certificates that sign the brokers' (PEM file)")
    ssl_certificate_location: Path | None = Field(default=None, description="our certificate, for mutual TLS (PEM file)")
    ssl_key_location: Path | None = Field(default=None, description="its key (PEM file)")
    ssl_key_password: SecretStr | None = Field(default=None, description="password of the key file")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        default=None, description="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"
    )
    sasl_username: str | None = Field(default=None, description="SASL user")
    sasl_password: SecretStr | None = Field(default=None, description="SASL password")
    replication_factor: int = Field(default=-1, description="of topics the ledger creates; -1 = the broker's default")

    @model_validator(mode="after")
    def _sasl_is_whole(self) -> KafkaSettings:
        if self.security_protocol.startswith("SASL") and not (self.sasl_mechanism and self.sasl_username and self.sasl_password):
            raise ValueError(
                "KAFKA_SECURITY_PROTOCOL with SASL needs KAFKA_SASL_MECHANISM, KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"
            )
        return self

    def client_config(self) -> dict[str, Any]:
        """Connection settings in librdkafka's names. Holds secrets: give it to a client, never log it."""
        config: dict[str, Any] = {
            "bootstrap.servers": self.bootstrap_servers,
            "client.id": self.client_id,
            "security.protocol": self.security_protocol,
        }
        optional = {
            "ssl.ca.location": self.ssl_ca_location and str(self.ssl_ca_location),
            "ssl.certificate.location": self.ssl_certificate_location and str(self.ssl_certificate_location),
            "ssl.key.location": self.ssl_key_location and str(self.ssl_key_location),
            "ssl.key.password": self.ssl_key_password and self.ssl_key_password.get_secret_value(),
            "sasl.mechanism": self.sasl_mechanism,
            "sasl.username": self.sasl_username,
            "sasl.password": self.sasl_password and self.sasl_password.get_secret_value(),
        }
        return config | {name: value for name, value in optional.items() if value}


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
    return _load(Settings)


def load_kafka_settings(**known: Any) -> KafkaSettings:
    """Kafka settings: what is known, the rest from the environment. Raises `ConfigError` as `load_settings` does."""
    return _load(KafkaSettings, **known)


def _load(kind: type[S], **known: Any) -> S:
    _check_env_file(Path(ENV_FILE))
    try:
        return kind(**known)
    except ValidationError as exc:
        prefix = str(kind.model_config.get("env_prefix") or "")
        problems = [
            f"{(prefix + '_'.join(map(str, e['loc']))).upper() or 'settings'}: {e['msg']}"
            for e in exc.errors(include_input=False)
        ]
        raise ConfigError("; ".join(problems)) from None


def _check_env_file(path: Path) -> None:
    """Raises `ConfigError` unless the file, if there is one, is text in UTF-8: else settings in it would be passed over."""
    if not path.is_file():
        return
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as exc:
        raise ConfigError(f"{path.absolute()} cannot be read: {exc.strerror}") from None
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # UTF-16 can look like UTF-8 with a NUL at every other place
        raise ConfigError(f"{path.absolute()} is not in UTF-8: save it as UTF-8")


def settings_table() -> str:
    """Every setting as a Markdown table, for the README (a test holds the two together)."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for kind in (KafkaSettings, Settings):
        prefix = str(kind.model_config.get("env_prefix") or "")
        for name, field in kind.model_fields.items():
            default = field.get_default(call_default_factory=False)
            shown = "the host's name" if field.default_factory else "" if default in (None, "") else f"`{default}`"
            rows.append(f"| `{(prefix + name).upper()}` | {shown} | {field.description or ''} |")
    return "\n".join(rows)


def rewritten(text: str) -> str:
    """`text` with the table of settings made anew. Raises `NoBlock` when there is no place for it."""
    return generated_blocks.rewritten(text, {"settings": settings_table}, "settings")


def main(arguments: list[str]) -> int:
    """Rewrite each named file in place; 0 when done."""
    return generated_blocks.main(arguments, rewritten, "ledger.config")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
