"""The command line. Each verb reads settings, calls the code that does the work, and shows the result.

Heavy modules are imported inside the verbs, so that `--help` is quick.
"""

from __future__ import annotations

import errno
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.terminal import Screen, take_over, write_json
from api.processes.running import read_keys, up_info
from ledger.errors import LedgerError

if TYPE_CHECKING:
    from api.settings import Settings
    from ledger.kafka.settings import KafkaSettings

app = typer.Typer(
    name="order-ledger",
    help="A Kafka event-sourced order service: every change of an order is an immutable event.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
schema_app = typer.Typer(help="The Avro schemas of the topics.", no_args_is_help=True)
app.add_typer(schema_app, name="schema")
transactions_app = typer.Typer(invoke_without_command=True, help="Show open Kafka transactions; end one that hangs.")
app.add_typer(transactions_app, name="transactions")

out = Screen()
err = Screen(stderr=True)

DEFAULT_DATA_DIR = Path(".ledger")

DataDir = Annotated[
    Path, typer.Option("--data-dir", help="Directory where `up` keeps everything: broker, databases, logs, keys.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
WithParent = Annotated[bool, typer.Option("--with-parent", hidden=True)]

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})  # of a write: its error names no file
WRITES_NO_LOG_LINES = frozenset({"up", "broker", "token"})
LOGS_AS_A_PROCESS = frozenset({"commands", "serve", "sandbox"})  # each configures its own


@app.callback()
def _before_every_verb(context: typer.Context) -> None:
    if context.invoked_subcommand not in WRITES_NO_LOG_LINES | LOGS_AS_A_PROCESS:
        from api.processes.log_lines import log_to_stderr

        log_to_stderr()


@contextmanager
def _without_collections() -> Iterator[None]:
    """Pause garbage collection during imports: it takes a tenth of their time and finds nothing, for modules stay."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@app.command()
def up(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    port: Annotated[int, typer.Option(help="Port of the HTTP API on 127.0.0.1.", min=1, max=65535)] = 8000,
    sandbox: Annotated[
        bool,
        typer.Option(
            "--sandbox/--no-sandbox", help="Start stand-ins for the payment and stock services that are not configured."
        ),
    ] = True,
) -> None:
    """Run the whole ledger on this machine: embedded Kafka, the command processor, the HTTP API, the sandbox.

    The first run downloads Kafka's jars (43 MB). A process that ends is restarted; Ctrl-C stops everything. DATA_DIR/run/up.json
    holds the addresses and a token for each role.
    """
    from ledger.broker.jars import JarCheck

    check = JarCheck()  # beside the imports
    from api.cli.screens import BrokerProgress, show_up
    from api.processes.signals import on_stop_signals
    from api.processes.up import Up

    with BrokerProgress(err) as progress:
        machine = Up(data_dir, port, lambda line: err.print(line, style="yellow"), stand_ins=sandbox, check=check)
        on_stop_signals(machine.stop)

        def ready(info: dict[str, Any]) -> None:
            progress.stop()
            show_up(out, info, machine.data)

        code = machine.run(ready, progress.update)
    err.print("Everything is stopped.")
    raise typer.Exit(code)


@app.command()
def serve(with_parent: WithParent = False) -> None:
    """Run the HTTP API and this node's read models (settings from the environment; see .env.example)."""
    with _without_collections():
        from api.processes.log_lines import configure_logging
        from api.processes.serve import run_serve
        from api.settings import load_settings
        from ledger.kafka.settings import load_kafka_settings

    settings, kafka = load_settings(), load_kafka_settings()
    configure_logging("serve", settings.log_level)
    raise typer.Exit(run_serve(settings, kafka, with_parent))


@app.command()
def commands(with_parent: WithParent = False) -> None:
    """Run the command processor, the only writer of the ledger (settings from the environment; see .env.example)."""
    with _without_collections():
        from api.processes.log_lines import configure_logging
        from api.processes.wiring import run_commands
        from api.settings import load_settings
        from ledger.kafka.settings import load_kafka_settings

    settings, kafka = load_settings(), load_kafka_settings()
    configure_logging("commands", settings.log_level)
    raise typer.Exit(run_commands(settings, kafka, with_parent))


@app.command()
def sandbox(
    data_dir: Annotated[Path, typer.Option("--data-dir", help="Directory for its state and its journal.")] = Path(
        ".ledger/sandbox"
    ),
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.", min=1, max=65535)] = 8420,
    product_grpc_port: Annotated[
        int | None, typer.Option(help="Also serve the product stock service over gRPC on this port.", min=1, max=65535)
    ] = None,
    merch_grpc_port: Annotated[
        int | None, typer.Option(help="Also serve the merchandise stock service over gRPC on this port.", min=1, max=65535)
    ] = None,
    chaos: Annotated[
        Path | None,
        typer.Option(help="JSON file with the faults to inject, as for PUT /sandbox/chaos.", exists=True, dir_okay=False),
    ] = None,
    with_parent: WithParent = False,
) -> None:
    """Run stand-ins for the payment provider and the two stock services. Loopback only, for development: no real money moves.

    The payment provider speaks the part of Stripe's API that the ledger uses, with Stripe's test cards. Every call is
    recorded in the journal (GET /sandbox/journal); PUT /sandbox/chaos injects faults.
    """
    with _without_collections():
        from api.processes.log_lines import configure_logging
        from api.processes.sandbox import run_stand_ins
        from api.settings import load_settings

    settings = load_settings()
    configure_logging("sandbox", settings.log_level)
    given = {"product": product_grpc_port, "merch": merch_grpc_port}
    grpc_ports = {service: at for service, at in given.items() if at is not None}
    raise typer.Exit(run_stand_ins(settings, data_dir, port, grpc_ports, chaos, with_parent))


@app.command()
def broker(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 picks a free one.", min=0, max=65535)] = 9092,
) -> None:
    """Run only the embedded Kafka broker, for development. Loopback only, one node, no replication."""
    from ledger.broker.jars import JarCheck

    check = JarCheck()  # beside the imports
    from api.cli.screens import BrokerProgress
    from api.processes.signals import stopper
    from ledger.broker.node import EmbeddedBroker

    stopping = stopper()
    node = EmbeddedBroker(data_dir / "broker", port=port, log_file=data_dir / "log" / "broker.log", check=check)
    with BrokerProgress(err) as progress:
        node.start(
            progress=progress.update,
            on_slow=lambda waited_s: err.print(
                f"slow machine: Kafka is not ready after {waited_s:.0f} s, but is making progress", style="yellow"
            ),
        )
    out.print(f"Kafka answers on {node.bootstrap_servers} (data in {data_dir / 'broker'}). Ctrl-C stops it.")
    training = node.training(data_dir / "log" / "java-cache.log")
    try:
        while not stopping.wait(0.5):
            training.tend()
            if (code := node.poll()) is not None:
                err.print(f"the broker exited with code {code}; see {data_dir / 'log' / 'broker.log'}", style="red")
                raise typer.Exit(1)
    finally:
        training.stop()
        node.stop()


@app.command()
def demo(
    orders: Annotated[int, typer.Option(help="How many orders to post.", min=10, max=100_000)] = 200,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the temporary directory.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run the whole system in a temporary directory: place, retry, refuse, pay, ship and read real orders over HTTP.

    Starts every process, checks the outcome with an independent consumer, and prints a table. Exits 0 if everything was as
    promised, else non-zero.
    """
    from ledger.broker.jars import JarCheck

    check = JarCheck()  # beside the imports
    from api.cli.demo.run import run_demo

    raise typer.Exit(run_demo(orders, keep, as_json, out, err, check))


@app.command()
def tail(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    start: Annotated[str, typer.Option("--from", help="beginning, now, an RFC 3339 time, or positions like 3-1017,0-5.")] = "now",
    order: Annotated[str | None, typer.Option(help="Only this order.")] = None,
    customer: Annotated[str | None, typer.Option(help="Only this customer's orders.")] = None,
    kind: Annotated[str | None, typer.Option("--type", help="Only events of this type, e.g. OrderPlaced.")] = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Wait for new events at the end of the log.")] = True,
    check: Annotated[
        bool, typer.Option("--check", help="Print only faults: duplicates, gaps, chain breaks. Exits 1 if there are any.")
    ] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Raw records: key, headers, value in hex.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print events as they are committed: one line each, as JSON lines, or raw."""
    from api.cli.inspection import run_tail
    from api.settings import load_settings

    code = run_tail(
        kafka_of(data_dir),
        load_settings(),
        start=start,
        order=order,
        customer=customer,
        kind=kind,
        follow=follow,
        check=check,
        form="raw" if raw else "json" if as_json else "table",
        out=out,
        err=err,
    )
    raise typer.Exit(code)


@app.command()
def audit(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    start: Annotated[
        str, typer.Option("--from", help="beginning, now, an RFC 3339 time, or a position like 0-17.")
    ] = "beginning",
    actor: Annotated[str | None, typer.Option(help="Only what this principal did, e.g. admin:desk.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this action, e.g. contact_read.")] = None,
    order: Annotated[str | None, typer.Option(help="Only records about this order.")] = None,
    customer: Annotated[str | None, typer.Option(help="Only records about this customer.")] = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Wait for new records at the end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print who erased customers, resolved attention and read contacts, and when tokens changed. Contains no personal data."""
    from api.cli.audit import run_audit
    from api.settings import load_settings

    wanted = {"actor": actor, "action": action, "order_id": order, "customer_id": customer}
    code = run_audit(kafka_of(data_dir), load_settings(), start=start, wanted=wanted, follow=follow, as_json=as_json)
    raise typer.Exit(code)


@app.command()
def history(
    order: Annotated[str, typer.Argument(help="The order's id.")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
    url: Annotated[
        str | None, typer.Option(envvar="LEDGER_URL", help="URL of the API; default: that of the running `up`.")
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="LEDGER_TOKEN", help="Token of a reader or an admin; default: from the running `up`.", show_default=False
        ),
    ] = None,
    at: Annotated[str | None, typer.Option(help="Only events up to this RFC 3339 time.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print every event of one order, oldest first."""
    from api.cli.inspection import run_history

    raise typer.Exit(run_history(order, *api_of(data_dir, url, token), at, as_json, out, err))


@app.command()
def diff(
    order: Annotated[str, typer.Argument(help="The order's id.")],
    before: Annotated[int, typer.Argument(help="The first version to compare.", min=1)],
    after: Annotated[int, typer.Argument(help="The second version to compare.", min=1)],
    data_dir: DataDir = DEFAULT_DATA_DIR,
    url: Annotated[
        str | None, typer.Option(envvar="LEDGER_URL", help="URL of the API; default: that of the running `up`.")
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="LEDGER_TOKEN", help="Token of a reader or an admin; default: from the running `up`.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the fields in which two versions of an order differ."""
    from api.cli.inspection import run_diff

    raise typer.Exit(run_diff(order, before, after, *api_of(data_dir, url, token), as_json, out, err))


@app.command()
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
    from api.cli.rebuild import run_rebuild

    code = run_rebuild(
        kafka_of(data_dir),
        settings_of(data_dir),
        jobs=jobs,
        keep_old=keep_old,
        dry_run=dry_run,
        back=back,
        fresh=fresh,
        accept_difference=accept_difference,
        as_json=as_json,
        out=out,
        err=err,
    )
    raise typer.Exit(code)


@app.command()
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
    from api.cli.verify import run_verify

    code = run_verify(
        kafka_of(data_dir),
        settings_of(data_dir),
        log_only=log_only,
        write_heads=write_heads,
        heads_file=heads,
        as_json=as_json,
        out=out,
        err=err,
    )
    raise typer.Exit(code)


@app.command()
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


@app.command("export-log")
def export_log(
    file: Annotated[Path, typer.Argument(help="File to write; an existing one is replaced.", dir_okay=False)],
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Write the whole ledger to one file: events and refusals, byte for byte, checked. Contains no personal data."""
    from api.cli.archive import run_export_log

    raise typer.Exit(run_export_log(kafka_of(data_dir), settings_of(data_dir), file, out, err))


@app.command("import-log")
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


@app.command()
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
    from api.callers.auth import ROLES, hash_token, new_token
    from ledger.clock import now_ms
    from ledger.rfc3339 import format_ms
    from ledger.topics import DAY_MS

    if role not in ROLES:
        raise typer.BadParameter(f"choose one of {', '.join(ROLES)}", param_hint="ROLE")
    made = new_token(role)
    entry: dict[str, Any] = {"name": name or role, "role": role, "sha256": [hash_token(made)]}
    if days is not None:
        entry["expires_at"] = format_ms(now_ms() + days * DAY_MS)
    if as_json:
        write_json({"token": made, "entry": entry})
        return
    out.print("Token, shown once:\n", made, "\n", sep="\n")
    out.print('Entry for LEDGER_TOKENS_FILE, inside {"tokens": [ ]}:\n')
    write_json(entry)


@app.command()
def privacy(as_json: AsJson = False) -> None:
    """Show what an erasure does not reach: the immutable texts in events, who writes them, and what must not be put there."""
    from api.cli.privacy import run_privacy

    run_privacy(as_json, out)


@app.command()
def doctor(data_dir: DataDir = DEFAULT_DATA_DIR, as_json: AsJson = False) -> None:
    """Check broker, topics, schemas, writers, read models and disk; report what is wrong and what to do. Exits 1 on a problem."""
    from api.cli.doctor import run_doctor

    raise typer.Exit(run_doctor(kafka_of(data_dir), settings_of(data_dir), data_dir, up_info(data_dir), as_json, out))


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

    A transaction that its coordinator will still end is left alone. Needs ALTER on the cluster, as Kafka's own tool does.
    """
    if topic not in (None, "events", "refusals"):
        raise typer.BadParameter("choose events or refusals", param_hint="--topic")
    if end_as not in (None, "commit", "abort"):
        raise typer.BadParameter("choose commit or abort", param_hint="--as")
    from api.cli.transactions import run_end
    from api.settings import load_settings

    code = run_end(
        kafka_of(data_dir),
        load_settings(),
        partition=partition,
        topic=topic,  # type: ignore[arg-type]
        end_as=end_as,  # type: ignore[arg-type]
        yes=yes,
        as_json=as_json,
        out=out,
        err=err,
        ask=typer.confirm,
    )
    raise typer.Exit(code)


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
    """(url, token) from the options, else of the running `up`. Exits 2 with a hint if there is neither."""
    info = up_info(data_dir)
    if url is None and info is not None:
        url = info["url"]
    if token is None and info is not None:
        token = info["tokens"]["admin"]
    if url is None or token is None:
        err.print(f"no ledger is running in {data_dir}: start one with `order-ledger up`, or pass --url and --token", style="red")
        raise typer.Exit(2)
    return url, token


def main() -> None:
    """Entry point. A `LedgerError`, or a file that cannot be used, is shown as one line with its code, never as a stack trace."""
    os.umask(0o077)  # files may hold what no other user of this machine may read
    take_over()
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # here, where a full device can still be reported
        return
    except LedgerError as exc:
        err.print_error(exc.code, str(exc))
    except OSError as exc:
        if exc.filename is None and exc.errno not in NO_ROOM:
            raise
        err.print_error("file", exc.strerror or str(exc) if exc.filename is None else f"{exc.filename}: {exc.strerror}")
    sys.exit(1)


if __name__ == "__main__":
    main()
