"""Verbs that export and import the ledger, back it up and restore it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from api.cli.options import (
    DEFAULT_DATA_DIR,
    MOVE,
    AdminToken,
    AsJson,
    DataDir,
    Url,
    Why,
    Yes,
    api_of,
    err,
    kafka_of,
    out,
    settings_of,
    terminal,
)

app = typer.Typer()


@app.command(rich_help_panel=MOVE)
def export(
    file: Annotated[Path, typer.Argument(help="Parquet file to write; an existing one is replaced.", dir_okay=False)],
    data_dir: DataDir = DEFAULT_DATA_DIR,
    start: Annotated[
        str, typer.Option("--from", help="beginning, an RFC 3339 time, or positions like 3-1017,0-5.")
    ] = "beginning",
) -> None:
    """Write every event to a Parquet file, one row each, for DuckDB, Spark, pandas and the like. Contains no personal data."""
    from api.cli.export import run_export
    from api.settings import load_settings

    raise typer.Exit(run_export(kafka_of(data_dir), load_settings(), file, start, out, err))


@app.command("export-log", rich_help_panel=MOVE)
def export_log(
    file: Annotated[Path, typer.Argument(help="File to write; an existing one is replaced.", dir_okay=False)],
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Write the whole ledger to one Avro file: events and refusals, byte for byte, checked. Contains no personal data."""
    from api.cli.archive import run_export_log

    raise typer.Exit(run_export_log(kafka_of(data_dir), settings_of(data_dir), file, out, err))


@app.command("import-log", rich_help_panel=MOVE)
def import_log(
    file: Annotated[Path, typer.Argument(help="A file that `export-log` wrote.", exists=True, dir_okay=False)],
    data_dir: DataDir = DEFAULT_DATA_DIR,
    check: Annotated[bool, typer.Option("--check", help="Only check the file; needs no Kafka.")] = False,
) -> None:
    """Check a file of `export-log` completely, then write it to an empty ledger with the same number of partitions.

    A file that is not exactly what a correct writer wrote is refused, naming the first bad record. Run this before the first
    `commands` and `serve` of the new cluster.
    """
    from api.cli.archive import run_import_log

    raise typer.Exit(run_import_log(kafka_of(data_dir), settings_of(data_dir), file, check, out, err))


@app.command("copy-log", rich_help_panel=MOVE)
def copy_log(
    partitions: Annotated[int, typer.Option(help="The new number of partitions, a multiple of the one now.", min=2, max=1000)],
    to_prefix: Annotated[str, typer.Option("--to-prefix", help="TOPIC_PREFIX of the copy.")],
    why: Why,
    yes: Yes = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Copy the ledger to more partitions, in topics with another prefix, prove the copy, and close the old ledger.

    Stop every node first, `serve` before `commands`, so that every command is decided. Orders, contacts, notes and the answers to
    retries are the same in the copy; its chain is a new one. Until the last step, the old ledger is as it was. It is recorded in
    the audit.
    """
    from api.cli.copying import CopyOptions, run_copy_log

    options = CopyOptions(why=why, yes=yes, prefix=to_prefix, partitions=partitions)
    raise typer.Exit(run_copy_log(kafka_of(data_dir), settings_of(data_dir), options, terminal(as_json), typer.confirm))


@app.command("import-orders", rich_help_panel=MOVE)
def import_orders(
    file: Annotated[
        Path, typer.Argument(help="One JSON object a line, as `importOrder` of the API.", exists=True, dir_okay=False)
    ],
    data_dir: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
    token: AdminToken = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check the file; needs no ledger.")] = False,
    as_json: AsJson = False,
) -> None:
    """Import the orders of an older service: with their times, status and numbers, and without anything to do for them.

    Repeat it as often as needed: an order is known by its old id. Refused lines are reported, with the reason, and do not stop
    the others. Exits 1 if there are any. Run one at a time: two could give the same number to two orders.
    """
    from api.cli.import_orders import ImportOptions, run_import_orders

    address, secret = ("", "") if dry_run else api_of(data_dir, url, token)
    options = ImportOptions(file=file, dry_run=dry_run, url=address, token=secret)
    raise typer.Exit(run_import_orders(options, terminal(as_json)))


@app.command(rich_help_panel=MOVE)
def backup(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the backup; created if missing.", file_okay=False)],
    data_dir: DataDir = DEFAULT_DATA_DIR,
    all_contacts: Annotated[
        bool,
        typer.Option("--all-contacts", help="Read all contacts again, and delete those of earlier increments from DIR."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Back up the whole ledger to DIR: orders, contacts (encrypted), token hashes, settings without secrets, signed heads.

    A second run into the same DIR adds only what is new, and is refused if the log is not the one from before. Works beside
    running processes and changes nothing in Kafka. Needs BACKUP_RECIPIENTS and LEDGER_HASH_KEY.
    """
    from api.cli.backup.running import run_backup

    raise typer.Exit(run_backup(kafka_of(data_dir), settings_of(data_dir), folder, all_contacts, terminal(as_json)))


@app.command(rich_help_panel=MOVE)
def restore(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `backup` wrote.", exists=True, file_okay=False)],
    data_dir: DataDir = DEFAULT_DATA_DIR,
    check: Annotated[bool, typer.Option("--check", help="Only prove the backup; needs no Kafka.")] = False,
    accept_faults: Annotated[
        bool, typer.Option("--accept-faults", help="Also take a ledger with events that no correct writer wrote, as they are.")
    ] = False,
    heads: Annotated[
        Path | None,
        typer.Option("--heads", help="Also check that it contains the heads in this file.", exists=True, dir_okay=False),
    ] = None,
    erased: Annotated[
        Path | None,
        typer.Option(
            "--erased",
            help="Customer ids, one a line, whose erasure was requested after the last backup.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Prove a backup from end to end, then write it to an empty cluster. Erased people stay erased.

    Run this before the first `commands` and `serve` of the new cluster. Needs BACKUP_IDENTITY and the LEDGER_HASH_KEY of before.
    """
    from api.cli.backup.running import RestoreOptions, run_restore

    options = RestoreOptions(check=check, accept_faults=accept_faults, heads_file=heads, erased_file=erased)
    raise typer.Exit(run_restore(kafka_of(data_dir), settings_of(data_dir), folder, options, terminal(as_json)))


@app.command("backup-key", rich_help_panel=MOVE)
def backup_key(as_json: AsJson = False) -> None:
    """Create a pair of keys for backups. The secret key is shown once and stored nowhere."""
    from api.cli.backup.running import run_backup_key

    raise typer.Exit(run_backup_key(terminal(as_json)))
