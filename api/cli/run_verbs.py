"""Verbs that run processes: `up`, each of its processes, the demo. Heavy modules are imported inside each verb."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.options import DEFAULT_DATA_DIR, RUN, AsJson, DataDir, WithParent, err, out

app = typer.Typer()


@contextmanager
def _without_collections() -> Iterator[None]:
    """Pause garbage collection during imports: it takes a tenth of their time and finds nothing, for modules stay."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@app.command(rich_help_panel=RUN)
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


@app.command(rich_help_panel=RUN)
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


@app.command(rich_help_panel=RUN)
def serve(with_parent: WithParent = False) -> None:
    """Run the HTTP API and this node's read models (settings from the environment; see .env.example)."""
    with _without_collections():
        from api.processes.log_lines import configure_logging
        from api.processes.otel import traced
        from api.processes.serve import run_serve
        from api.settings import load_settings
        from ledger.kafka.settings import load_kafka_settings

    settings, kafka = load_settings(), load_kafka_settings()
    configure_logging("serve", settings.log_level)
    with traced("serve", settings.node_id):
        raise typer.Exit(run_serve(settings, kafka, with_parent))


@app.command(rich_help_panel=RUN)
def commands(with_parent: WithParent = False) -> None:
    """Run the command processor, the only writer of the ledger (settings from the environment; see .env.example)."""
    with _without_collections():
        from api.processes.log_lines import configure_logging
        from api.processes.otel import traced
        from api.processes.wiring import run_commands
        from api.settings import load_settings
        from ledger.kafka.settings import load_kafka_settings

    settings, kafka = load_settings(), load_kafka_settings()
    configure_logging("commands", settings.log_level)
    with traced("commands", settings.node_id):
        raise typer.Exit(run_commands(settings, kafka, with_parent))


@app.command(rich_help_panel=RUN)
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
    ports = {"product": product_grpc_port, "merch": merch_grpc_port}
    grpc_ports = {service: at for service, at in ports.items() if at is not None}
    raise typer.Exit(run_stand_ins(settings, data_dir, port, grpc_ports, chaos, with_parent))


@app.command(rich_help_panel=RUN)
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
    from ledger.errors import BrokerError

    stopping = stopper()
    node = EmbeddedBroker(data_dir / "broker", port=port, log_file=data_dir / "log" / "broker.log", check=check)
    try:
        with BrokerProgress(err) as progress:
            node.start(
                progress=progress.update,
                on_slow=lambda waited_s: err.print(
                    f"slow machine: Kafka is not ready after {waited_s:.0f} s, but is making progress", style="yellow"
                ),
                stopping=stopping.is_set,
            )
    except BrokerError:
        if stopping.is_set():
            return
        raise
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
