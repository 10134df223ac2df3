"""Verbs for the set-up: tokens, schemas in a registry, upgrades, files for operators."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.options import DEFAULT_DATA_DIR, SET_UP, AsJson, DataDir, kafka_of, out, settings_of, terminal
from api.cli.terminal import write_json

app = typer.Typer()
schema_app = typer.Typer(help="The Avro schemas of the topics.", no_args_is_help=True)
app.add_typer(schema_app, name="schema", rich_help_panel=SET_UP)
upgrade_app = typer.Typer(help="Programs of several versions on one ledger.", no_args_is_help=True)
app.add_typer(upgrade_app, name="upgrade", rich_help_panel=SET_UP)
ops_app = typer.Typer(help="Files for whoever runs the ledger.", no_args_is_help=True)
app.add_typer(ops_app, name="ops", rich_help_panel=SET_UP)


@app.command(rich_help_panel=SET_UP)
def token(
    role: Annotated[str, typer.Argument(help="gateway, admin, reader or operator.")],
    name: Annotated[str | None, typer.Option(help="The principal's name; default: the role.")] = None,
    days: Annotated[int | None, typer.Option(help="Days until it expires; default: never.", min=1, max=36_500)] = None,
    as_json: AsJson = False,
) -> None:
    """Create a token and its entry for the tokens file. The token itself is shown once and stored nowhere.

    A running `serve` reloads the file when it changes. To rotate a token, list both hashes under its name until the old one is
    no longer used.
    """
    from api.callers.auth import hash_token, new_token
    from api.callers.roles import ROLES
    from ledger.clock import now_ms
    from ledger.durations import DAY_MS
    from ledger.rfc3339 import format_ms

    if role not in ROLES:
        raise typer.BadParameter(f"choose one of {', '.join(ROLES)}", param_hint="ROLE")
    secret = new_token(role)
    entry: dict[str, Any] = {"name": name or role, "role": role, "sha256": [hash_token(secret)]}
    if days is not None:
        entry["expires_at"] = format_ms(now_ms() + days * DAY_MS)
    if as_json:
        write_json({"token": secret, "entry": entry})
        return
    out.print("Token, shown once:\n", secret, "\n", sep="\n")
    out.print('Entry for LEDGER_TOKENS_FILE, inside {"tokens": [ ]}:\n')
    write_json(entry)


@schema_app.command("check")
def schema_check(
    registry: Annotated[str | None, typer.Option(envvar="SCHEMA_REGISTRY_URL", help="Also compare with this registry.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check that every schema version is compatible with every other one (FULL_TRANSITIVE), without a server."""
    from api.cli.schema import run_check
    from api.settings import load_settings

    raise typer.Exit(run_check(registry, load_settings().topic_prefix, as_json, out))


@schema_app.command("publish")
def schema_publish(
    registry: Annotated[str, typer.Option(envvar="SCHEMA_REGISTRY_URL", help="Registry to publish to.")],
) -> None:
    """Publish the schemas to a registry under their own ids."""
    from api.cli.schema import run_publish
    from api.settings import load_settings

    raise typer.Exit(run_publish(registry, load_settings().topic_prefix, out))


@upgrade_app.command("status")
def upgrade_status(data_dir: DataDir = DEFAULT_DATA_DIR, as_json: AsJson = False) -> None:
    """Show which programs run as which nodes, the feature level in use, and what to do next."""
    from api.cli.upgrade import run_status

    raise typer.Exit(run_status(kafka_of(data_dir), settings_of(data_dir), as_json, out))


@upgrade_app.command("finish")
def upgrade_finish(data_dir: DataDir = DEFAULT_DATA_DIR, as_json: AsJson = False) -> None:
    """Allow what this program adds to the log. Run it when every node has this program, and none will return to an older one.

    It is refused while an older program runs. From then on, older programs refuse to start: they could not read the log.
    """
    from api.cli.upgrade import run_finish

    raise typer.Exit(run_finish(kafka_of(data_dir), settings_of(data_dir), as_json, out))


@ops_app.command("export")
def ops_export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Directory to write to; created if needed.", file_okay=False)],
    runbook_url: Annotated[
        str | None, typer.Option(help="Address of RUNBOOK.md where alerts are read, for example in a wiki.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that were changed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a Grafana dashboard, Prometheus alert rules with their runbook, and files for Kubernetes and systemd.

    Files that were changed there are not replaced: then nothing is written.
    """
    from api.cli.ops import ExportOptions, run_export

    options = ExportOptions(folder=folder, runbook_url=runbook_url, replace=force)
    raise typer.Exit(run_export(options, terminal(as_json)))
