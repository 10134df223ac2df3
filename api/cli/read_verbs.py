"""Verbs that read: the log, one order, the audit."""

from __future__ import annotations

from typing import Annotated

import typer

from api.cli.options import DEFAULT_DATA_DIR, READ, AsJson, DataDir, Token, Url, api_of, err, kafka_of, out, terminal

app = typer.Typer()


@app.command(rich_help_panel=READ)
def tail(  # noqa: PLR0917  # an option each
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
    from api.cli.tail import TailOptions, run_tail
    from api.settings import load_settings

    options = TailOptions(
        start=start,
        order=order,
        customer=customer,
        kind=kind,
        follow=follow,
        check=check,
        form="raw" if raw else "json" if as_json else "table",
    )
    raise typer.Exit(run_tail(kafka_of(data_dir), load_settings(), options, terminal(as_json)))


@app.command(rich_help_panel=READ)
def history(
    order: Annotated[str, typer.Argument(help="The order's id.")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
    token: Token = None,
    at: Annotated[str | None, typer.Option(help="Only events up to this RFC 3339 time.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print every event of one order, oldest first."""
    from api.cli.history import run_history

    raise typer.Exit(run_history(order, *api_of(data_dir, url, token), at, as_json, err))


@app.command(rich_help_panel=READ)
def diff(
    order: Annotated[str, typer.Argument(help="The order's id.")],
    before: Annotated[int, typer.Argument(help="The first version to compare.", min=1)],
    after: Annotated[int, typer.Argument(help="The second version to compare.", min=1)],
    data_dir: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Print the fields in which two versions of an order differ."""
    from api.cli.history import run_diff

    raise typer.Exit(run_diff(order, before, after, *api_of(data_dir, url, token), as_json, err))


@app.command(rich_help_panel=READ)
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
    """Print what no event says: who saw contacts, searched by e-mail, erased customers or resolved attention.

    Also who changed webhook endpoints, read their secrets or used a verb with `--why`, and when tokens changed. Contains no
    personal data.
    """
    from api.cli.audit import run_audit
    from api.settings import load_settings

    wanted = {"actor": actor, "action": action, "order_id": order, "customer_id": customer}
    code = run_audit(kafka_of(data_dir), load_settings(), start=start, wanted=wanted, follow=follow, as_json=as_json)
    raise typer.Exit(code)


@app.command(rich_help_panel=READ)
def privacy(as_json: AsJson = False) -> None:
    """Show what an erasure does not reach: the immutable texts in events, who writes them, and what must not be put there."""
    from api.cli.privacy import run_privacy

    run_privacy(as_json, out)
