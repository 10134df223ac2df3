"""Verbs about messages to customers: show one, check all templates."""

from __future__ import annotations

from typing import Annotated

import typer

from api.cli.options import DEFAULT_DATA_DIR, READ, AsJson, DataDir, Token, Url, api_of, terminal
from commands.notifier.notices import NOTICES

SAMPLE = "sample"

app = typer.Typer()
messages_app = typer.Typer(help="Messages to customers: show one, check all templates.", no_args_is_help=True)
app.add_typer(messages_app, name="messages", rich_help_panel=READ)

FORMS = ("text", "html", "sms")


@messages_app.command("preview")
def messages_preview(
    order: Annotated[str, typer.Argument(help="An order's id, or `sample` for a made-up order.")] = SAMPLE,
    message: Annotated[str, typer.Option(help=f"Which message: {', '.join(NOTICES)}.")] = "placed",
    language: Annotated[str | None, typer.Option(help="Language tag, such as de-AT; default: the customer's.")] = None,
    form: Annotated[str, typer.Option(help="text or html of the mail, or sms.")] = "text",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Print a message to a customer, as it would be sent now. Sends nothing.

    Reads the order from the running API; an admin's token also shows its contact, which is audited. Exits 1 if there is no such
    order, or a template fails.
    """
    if message not in NOTICES:
        raise typer.BadParameter(f"choose one of {', '.join(NOTICES)}", param_hint="--message")
    if form not in FORMS:
        raise typer.BadParameter(f"choose one of {', '.join(FORMS)}", param_hint="--form")
    from api.cli.messages import Preview, run_preview
    from api.settings import load_settings

    source = None if order == SAMPLE else (order, *api_of(data_dir, url, token))
    raise typer.Exit(run_preview(load_settings(), source, Preview(message, language, form), terminal(as_json)))


@messages_app.command("check")
def messages_check(as_json: AsJson = False) -> None:
    """Check the templates: each compiles and renders orders of every kind, and none is missing. Exits 1 on any fault.

    Checks the templates in NOTIFY_TEMPLATES_DIR and the shipped ones that they do not replace.
    """
    from api.cli.messages import run_check
    from api.settings import load_settings

    raise typer.Exit(run_check(load_settings(), terminal(as_json)))
