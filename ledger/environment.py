"""Loads settings from the environment and `.env`, and reports errors in them.

Opens no file other than `.env`, and no connection.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, DotEnvSettingsSource, SettingsConfigDict

from ledger.errors import ConfigError

S = TypeVar("S", bound=BaseSettings)

ENV_FILE = ".env"  # in the working directory; UTF-8, with or without a byte order mark
ENVIRONMENT = SettingsConfigDict(env_file=ENV_FILE, env_file_encoding="utf-8-sig", env_ignore_empty=True, extra="ignore")


def load(kind: type[S], **known: Any) -> S:
    """Settings of this kind; `known` overrides the environment. Raises `ConfigError`, whose message contains no value."""
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
    """Raises `ConfigError` if the file exists and is not UTF-8: settings in it would be silently ignored."""
    if not path.is_file():
        return
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as exc:
        raise ConfigError(f"{path.absolute()} cannot be read: {exc.strerror}") from None
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # UTF-16 can look like UTF-8 with a NUL at every other position
        raise ConfigError(f"{path.absolute()} is not in UTF-8: save it as UTF-8")


def is_in_env_file(kind: type[BaseSettings], name: str) -> bool:
    """Whether `.env` sets the field `name`. Call `load` first, which checks the file."""
    return name in DotEnvSettingsSource(kind).env_vars
