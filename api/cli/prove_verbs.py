"""Verbs that verify and repair: the log, the read models, the processes, Kafka's transactions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from api.cli.options import DEFAULT_DATA_DIR, PROVE, AsJson, DataDir, Url, kafka_of, out, settings_of, terminal
from api.processes.running import up_info

app = typer.Typer()
transactions_app = typer.Typer(invoke_without_command=True, help="Show open Kafka transactions; end one that hangs.")
app.add_typer(transactions_app, name="transactions", rich_help_panel=PROVE)


@app.command(rich_help_panel=PROVE)
def verify(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    log_only: Annotated[bool, typer.Option("--log-only", help="Check the log, but not the read models.")] = False,
    write_heads: Annotated[
        Path | None,
        typer.Option("--write-heads", help="Also write the heads of the hash chains, signed, to this file.", dir_okay=False),
    ] = None,
    heads: Annotated[
        Path | None,
        typer.Option("--heads", help="Check that the log contains the heads in this file.", exists=True, dir_okay=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify the log and the read models: read every event, recompute everything, compare every row. Exits 1 on any fault.

    Reports the first differences with partition, offset, order and field. Works beside a running `serve` and changes nothing.
    Heads that are kept elsewhere also show whether the log was cut off or rewritten; they are signed with LEDGER_HASH_KEY.
    """
    from api.cli.verify import VerifyOptions, run_verify

    options = VerifyOptions(log_only=log_only, write_heads=write_heads, heads_file=heads)
    raise typer.Exit(run_verify(kafka_of(data_dir), settings_of(data_dir), options, terminal(as_json)))


@app.command(rich_help_panel=PROVE)
def rebuild(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    jobs: Annotated[
        int | None, typer.Option(help="Number of processes that share the partitions; default: one per CPU.", min=1)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Build and compare, then delete the result.")] = False,
    keep_old: Annotated[bool, typer.Option("--keep-old", help="Keep the current read models, for --back.")] = False,
    back: Annotated[
        bool, typer.Option("--back", help="Return to the read models that were kept, and bring them up to date.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of resuming an interrupted rebuild.")] = False,
    accept_difference: Annotated[
        bool, typer.Option("--accept-difference", help="Use the result even if the current read models differ from it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Rebuild this node's read models from the log, beside a running `serve`, which switches to them without losing a read.

    Compares digests with the current read models, exactly at their position. If they differ, changes nothing and exits 1.
    An interrupted run loses nothing: the next one resumes it. Reads only Kafka and writes only STATE_DIR/projections.
    """
    from api.cli.rebuild import RebuildOptions, run_rebuild

    options = RebuildOptions(
        jobs=jobs, keep_old=keep_old, dry_run=dry_run, back=back, fresh=fresh, accept_difference=accept_difference
    )
    raise typer.Exit(run_rebuild(kafka_of(data_dir), settings_of(data_dir), options, terminal(as_json)))


@app.command(rich_help_panel=PROVE)
def doctor(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="LEDGER_TOKEN", help="Token of any role, for /metrics; default: from the running `up`.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check broker, topics, schemas, writers, read models and disk; report what is wrong and what to do. Exits 1 on a problem."""
    from api.cli.doctor import DoctorOptions, run_doctor

    options = DoctorOptions(data_dir=data_dir, info=up_info(data_dir), url=url, token=token)
    raise typer.Exit(run_doctor(kafka_of(data_dir), settings_of(data_dir), options, terminal(as_json)))


@transactions_app.callback()
def transactions(context: typer.Context, data_dir: DataDir = DEFAULT_DATA_DIR, as_json: AsJson = False) -> None:
    """Show the ledger's open transactions. Exits 1 if one hangs: nothing after it can be read or decided until it is ended.

    A transaction hangs when Kafka left it open: its coordinator is done with it, but a partition never got the end marker.
    `transactions end` writes that marker.
    """
    if context.invoked_subcommand is None:
        from api.cli.transactions import run_transactions
        from api.settings import load_settings

        raise typer.Exit(run_transactions(kafka_of(data_dir), load_settings(), as_json, out))


@transactions_app.command("end")
def transactions_end(
    partition: Annotated[int, typer.Option(help="Partition in which it hangs.", min=0)],
    topic: Annotated[str | None, typer.Option(help="events or refusals; default: both.")] = None,
    end_as: Annotated[str | None, typer.Option("--as", help="commit or abort; default: what its records call for.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Commit or abort a transaction that Kafka left open, so that its partition can continue. First says what it will do.

    A transaction that its coordinator will still end is left alone. Needs Alter on the cluster, as Kafka's own tool does, and
    Describe on the transactional ids of the writers, as `commands` has.
    """
    if topic not in (None, "events", "refusals"):
        raise typer.BadParameter("choose events or refusals", param_hint="--topic")
    if end_as not in (None, "commit", "abort"):
        raise typer.BadParameter("choose commit or abort", param_hint="--as")
    from api.cli.transactions import EndOptions, run_end
    from api.settings import load_settings

    options = EndOptions(partition=partition, topic=topic, end_as=end_as, yes=yes)  # type: ignore[arg-type]
    raise typer.Exit(run_end(kafka_of(data_dir), load_settings(), options, terminal(as_json), typer.confirm))
