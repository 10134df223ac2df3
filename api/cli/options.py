"""Shared by several verbs: options, output, and the selected ledger."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.terminal import Screen, Terminal
from api.processes.running import read_keys, up_info

if TYPE_CHECKING:
    from api.settings import Settings
    from ledger.kafka.settings import KafkaSettings

out = Screen()
err = Screen(stderr=True)

RUN, READ, PROVE, REPAIR, MOVE, SET_UP = "Run", "Read", "Prove", "Repair", "Move", "Set up"  # panels of the help

DEFAULT_DATA_DIR = Path(".ledger")

DataDir = Annotated[
    Path, typer.Option("--data-dir", help="Directory where `up` keeps everything: broker, databases, logs, keys.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Why = Annotated[str, typer.Option("--why", help="The reason, for the audit. No personal data.", show_default=False)]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]
WithParent = Annotated[bool, typer.Option("--with-parent", hidden=True)]
Url = Annotated[str | None, typer.Option(envvar="LEDGER_URL", help="URL of the API; default: that of the running `up`.")]
Token = Annotated[
    str | None,
    typer.Option(
        envvar="LEDGER_TOKEN", help="Token of a reader or an admin; default: from the running `up`.", show_default=False
    ),
]
AdminToken = Annotated[
    str | None,
    typer.Option("--token", envvar="LEDGER_TOKEN", help="Token of an admin; default: from the running `up`.", show_default=False),
]


def terminal(as_json: bool) -> Terminal:
    """The terminal of this process."""
    return Terminal(out, err, as_json)


def settings_of(data_dir: Path) -> Settings:
    """Settings from the environment. STATE_DIR and LEDGER_HASH_KEY default to those of the running `up`."""
    from pydantic import SecretStr

    from api.settings import load_settings

    settings = load_settings()
    changes: dict[str, Any] = {}
    if up_info(data_dir) is not None:
        if "STATE_DIR" not in os.environ:
            changes["state_dir"] = data_dir / "state"
        if settings.ledger_hash_key is None:
            changes["ledger_hash_key"] = SecretStr(read_keys(data_dir)["hash_key"])
    return settings.model_copy(update=changes)


def kafka_of(data_dir: Path) -> KafkaSettings:
    """The cluster: KAFKA_BOOTSTRAP_SERVERS when set, else the running `up`, else the default."""
    from ledger.kafka.settings import load_kafka_settings

    info = up_info(data_dir)
    if info is not None and "KAFKA_BOOTSTRAP_SERVERS" not in os.environ:
        return load_kafka_settings(bootstrap_servers=info["bootstrap_servers"])
    return load_kafka_settings()


def api_of(data_dir: Path, url: str | None, token: str | None) -> tuple[str, str]:
    """(url, token) from the options, else of the running `up`, whose token is used only for its own API.

    Exits 2 with a hint if one of them is missing.
    """
    info = up_info(data_dir)
    if url is None and info is not None:
        url = info["url"]
    if token is None and info is not None and url is not None and url.rstrip("/") == info["url"]:
        token = info["tokens"]["admin"]
    if url is None or token is None:
        hint = f"no ledger is running in {data_dir}: start one with `order-ledger up`, or pass --url and --token"
        if info is not None:
            hint = f"the token of the ledger in {data_dir} is only for {info['url']}: pass --token, or leave out --url"
        err.print(hint, style="red")
        raise typer.Exit(2)
    return url, token
