"""Verbs for what a person must decide: a log that is not the one from before, commands that are gone, an order that must stop."""

from __future__ import annotations

from typing import Annotated

import typer

from api.cli.options import DEFAULT_DATA_DIR, REPAIR, AsJson, DataDir, Why, Yes, kafka_of, settings_of, terminal

app = typer.Typer()
writers_app = typer.Typer(help="How many writers share the partitions: show them, change their number.", no_args_is_help=True)
app.add_typer(writers_app, name="writers", rich_help_panel=REPAIR)

OrderId = Annotated[str, typer.Argument(help="The order's id.")]


@app.command(rich_help_panel=REPAIR)
def inspect(data_dir: DataDir = DEFAULT_DATA_DIR, as_json: AsJson = False) -> None:
    """Compare every position that this node keeps with the log. Exits 1 if it is not the log from before. Changes nothing.

    same: the log from before. mirrored: a copy, used as it is. moved: restored by `restore` or `import-log`, folded again.
    other: refused. What a running `serve` or `commands` has open is not compared: they do it themselves when they start.
    """
    from api.cli.inspection import run_inspect

    raise typer.Exit(run_inspect(kafka_of(data_dir), settings_of(data_dir), terminal(as_json)))


@app.command("adopt-log", rich_help_panel=REPAIR)
def adopt_log(why: Why, yes: Yes = False, data_dir: DataDir = DEFAULT_DATA_DIR, as_json: AsJson = False) -> None:
    """Take the log of the settings as it is, and forget what this node folded from another one. First says what is given up.

    For a log that lost records or was restored too short. Stop `serve` and `commands` of this node first, and run it on each node
    that refuses the log. Recorded in the audit of that log.
    """
    from api.cli.acts import ActOptions
    from api.cli.adopt_log import run_adopt_log

    options = ActOptions(why=why, yes=yes)
    raise typer.Exit(run_adopt_log(kafka_of(data_dir), settings_of(data_dir), options, terminal(as_json), typer.confirm))


@app.command("accept-gap", rich_help_panel=REPAIR)
def accept_gap(why: Why, yes: Yes = False, data_dir: DataDir = DEFAULT_DATA_DIR, as_json: AsJson = False) -> None:
    """Give up commands that Kafka deleted before they were decided, so that `commands` continues behind them.

    Stop `commands` of this node first, run it, and start `commands` here: it decides the next command, and all others follow.
    Recorded in the audit.
    """
    from api.cli.acts import ActOptions
    from api.cli.adopt_log import run_accept_gap

    options = ActOptions(why=why, yes=yes)
    raise typer.Exit(run_accept_gap(kafka_of(data_dir), settings_of(data_dir), options, terminal(as_json), typer.confirm))


@app.command(rich_help_panel=REPAIR)
def freeze(order: OrderId, why: Why, yes: Yes = False, data_dir: DataDir = DEFAULT_DATA_DIR, as_json: AsJson = False) -> None:
    """Freeze an order: requests about it are refused, and nothing is captured, reserved, refunded or expired until `thaw`.

    It is a flag of the order (`frozen_by_operator`) in the log: every node knows it, and it survives everything. What providers
    report is still recorded. Recorded in the audit.
    """
    from api.cli.freezing import FreezeOptions, run_freeze

    options = FreezeOptions(why=why, yes=yes, order_id=order, deed="freeze")
    raise typer.Exit(run_freeze(kafka_of(data_dir), settings_of(data_dir), options, terminal(as_json), typer.confirm))


@app.command(rich_help_panel=REPAIR)
def thaw(
    order: OrderId,
    why: Why,
    yes: Yes = False,
    fold_again: Annotated[
        bool,
        typer.Option(
            "--fold-again",
            help="For an order whose fold stopped at a record: forget the fold of its partition on this node; the next start of "
            "`commands` folds it again.",
        ),
    ] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Let a frozen order continue: what it owes is done, and requests are decided again. Recorded in the audit."""
    from api.cli.freezing import FreezeOptions, run_freeze

    options = FreezeOptions(why=why, yes=yes, order_id=order, deed="thaw", fold_again=fold_again)
    raise typer.Exit(run_freeze(kafka_of(data_dir), settings_of(data_dir), options, terminal(as_json), typer.confirm))


@writers_app.command("show")
def show_writers(data_dir: DataDir = DEFAULT_DATA_DIR, as_json: AsJson = False) -> None:
    """Show which partitions each writer decides, and whether a process holds it."""
    from api.cli.writers import run_show

    raise typer.Exit(run_show(kafka_of(data_dir), settings_of(data_dir), terminal(as_json)))


@writers_app.command("set")
def set_writers(
    count: Annotated[int, typer.Argument(min=1, help="The new number of writers, at most the number of partitions.")],
    why: Why,
    yes: Yes = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Change the number of writers, so that more or fewer processes share the work.

    Stop every `commands` of this ledger first; `serve` may run. Then set WRITERS to the new number for every process, and start
    `commands` again. One that still runs with the old number ends before it decides anything. Recorded in the audit.
    """
    from api.cli.writers import WritersOptions, run_set

    options = WritersOptions(why=why, yes=yes, count=count)
    raise typer.Exit(run_set(kafka_of(data_dir), settings_of(data_dir), options, terminal(as_json), typer.confirm))
