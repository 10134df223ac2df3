"""Kafka connection settings, shared by every client of the project."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ledger.environment import ENVIRONMENT, load


class KafkaSettings(BaseSettings):
    """The Kafka connection settings."""

    model_config = SettingsConfigDict(**{**ENVIRONMENT, "env_prefix": "KAFKA_"})

    bootstrap_servers: str = Field(default="127.0.0.1:9092", description="addresses of the cluster as host:port, comma-separated")
    client_id: str = Field(default="order-ledger", description="prefix of `client.id`")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"
    )
    ssl_ca_location: Path | None = Field(default=None, description="CA certificates of the brokers (PEM file)")
    ssl_certificate_location: Path | None = Field(default=None, description="client certificate for mutual TLS (PEM file)")
    ssl_key_location: Path | None = Field(default=None, description="key of the client certificate (PEM file)")
    ssl_key_password: SecretStr | None = Field(default=None, description="password of the key file")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        default=None, description="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"
    )
    sasl_username: str | None = Field(default=None, description="SASL user")
    sasl_password: SecretStr | None = Field(default=None, description="SASL password")
    replication_factor: int = Field(
        default=-1, description="replication factor of topics that the ledger creates; -1: the default of the brokers"
    )

    @model_validator(mode="after")
    def _sasl_is_whole(self) -> KafkaSettings:
        if self.security_protocol.startswith("SASL") and not (self.sasl_mechanism and self.sasl_username and self.sasl_password):
            raise ValueError(
                "KAFKA_SECURITY_PROTOCOL with SASL needs KAFKA_SASL_MECHANISM, KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"
            )
        return self

    def client_config(self) -> dict[str, Any]:
        """Connection settings with librdkafka's names. Contains secrets: pass it to a client, never log it."""
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


def load_kafka_settings(**known: Any) -> KafkaSettings:
    """`known` settings, all others from the environment. Raises `ConfigError` like `load_settings`."""
    return load(KafkaSettings, **known)
