"""Settings from the environment and `.env`: which file, how it is read, and what is said of one that cannot be.

Nothing here opens a connection or a file but `.env`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from ledger.errors import ConfigError

S = TypeVar("S", bound=BaseSettings)

ENV_FILE = ".env"  # in the directory where the process is started; in UTF-8, with or without a mark at its beginning
ENVIRONMENT = SettingsConfigDict(env_file=ENV_FILE, env_file_encoding="utf-8-sig", env_ignore_empty=True, extra="ignore")


def load(kind: type[S], **known: Any) -> S:
    """The settings of a kind; `known` wins over the environment. Raises `ConfigError`, which repeats no value."""
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
