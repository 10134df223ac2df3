"""What a ledger needs besides its records: settings, tokens, published schemas and the feature level, as small JSON files."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from api.callers.auth import read_tokens, tokens_text
from api.cli.backup.manifest import SETTINGS, TOKENS
from api.settings import Settings
from ledger.kafka.settings import KafkaSettings
from ledger.levels import FIRST
from ledger.log import EventLog
from ledger.schemas.versions import SchemaVersion, published, schema_versions
from ledger.topics import Topics
from ledger.upgrades.control import Control
from ledger.upgrades.records import View


class PublishedSchema(Struct, frozen=True):
    """A schema with its id; `topic` is the name without prefix."""

    id: int
    topic: str
    version: int
    schema: str


class ControlState(Struct, frozen=True):
    """What of `order-control` a restored ledger needs: the feature level in use, and every published schema.

    Nodes are not there, because they belong to the old cluster. Claims of progress are not there, because they are about offsets
    of an `order-commands` that is gone (`ledger.progress`).
    """

    level: int
    raised_by: str
    schemas: tuple[PublishedSchema, ...]

    def later(self) -> list[SchemaVersion]:
        """The schemas that this program does not have itself. Raises `ValueError` if one has another content than its id says."""
        own = {schema.id for schema in schema_versions()}
        return [published(s.topic, s.version, s.schema, s.id) for s in self.schemas if s.id not in own]


decode_control = msgspec.json.Decoder(ControlState).decode


def control_of(event_log: EventLog, topics: Topics) -> bytes:
    """`control.json`: with the schemas of this program, and those of every other one. Raises `LogError`."""
    control = Control(event_log, topics)
    view = control.read(View()) if control.exists() else View(level=FIRST)
    schemas = {schema.id: schema for schema in (*schema_versions(), *view.schemas.values())}
    known = tuple(PublishedSchema(i, s.topic, s.version, s.text) for i, s in sorted(schemas.items()))
    return _indented(msgspec.json.encode(ControlState(view.level, view.raised_by, known)))


def settings_of(*settings: Settings | KafkaSettings) -> bytes:
    """`settings.json`: the variables of `settings` as text, and the names of those that are secret and set.

    Secret is what is declared so, and every address with a user or a password in it.
    """
    shown: dict[str, str | None] = {}
    secrets: list[str] = []
    for some in settings:
        prefix = str(some.model_config.get("env_prefix") or "")
        for field, info in type(some).model_fields.items():
            name, value = f"{prefix}{field}".upper(), getattr(some, field)
            if "SecretStr" in str(info.annotation) or (isinstance(value, str) and _has_userinfo(value)):
                secrets += [name] if value is not None else []
            else:
                shown[name] = None if value is None else str(value)
    return _indented(msgspec.json.encode({"settings": shown, "secrets": sorted(secrets)}))


def _has_userinfo(value: str) -> bool:
    try:
        return any("@" in urlsplit(word.strip()).netloc for word in value.split(","))
    except ValueError:  # not an address
        return "@" in value


def tokens_of(settings: Settings) -> bytes | None:
    """`tokens.json`: the tokens file of the settings, which has hashes only; None if there is none. Raises `ConfigError`."""
    if settings.ledger_tokens is None and settings.ledger_tokens_file is None:
        return None
    read_tokens(settings)  # whatever else was in the file would be refused
    _, text = tokens_text(settings)
    return None if text is None else text.encode()


def surroundings_of(kafka: KafkaSettings, settings: Settings) -> dict[str, bytes]:
    """The files of the settings, by name. Raises `ConfigError`."""
    files: dict[str, bytes] = {SETTINGS: settings_of(settings, kafka)}
    if (tokens := tokens_of(settings)) is not None:
        files[TOKENS] = tokens
    return files


def is_json(content: bytes) -> bool:
    """Whether `content` is a JSON object."""
    try:
        value: Any = msgspec.json.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return isinstance(value, dict)


def _indented(raw: bytes) -> bytes:
    return msgspec.json.format(raw, indent=2) + b"\n"
