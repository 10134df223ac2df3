"""The verb `import-orders`: sends a file with the orders of an older service, one JSON object a line, to the API.

Safe to repeat: the API knows every order by its old id. A line that is refused does not stop the others; the report names it.

Lines are sent several at a time, so the API alone would not notice that two of them have the same number: their orders may be in
different partitions. So the verb refuses the second one itself. Nothing does that for two verbs at the same time.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from api.bodies import parse, validated
from api.cli.terminal import Terminal, write_json
from api.contract.requests import ImportOrderBody
from api.problems import Problem, sentence
from api.routes.imports import import_of
from commands.flaws import flaw_of_import, flaws
from ledger.clock import now_ms
from ledger.errors import ConfigError
from ledger.http_client import HttpAnswer, HttpClient, NoAnswer, retry_after_s

AT_ONCE = 16
CALL_S = 60.0
TRIES, PAUSE_S = 60, 1.0  # of one line, while the ledger is unreachable or asks to wait
MOST_SHOWN = 20
_LATER = frozenset({202, 408, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """The options of `import-orders`. `url` and `token`: of an admin; not needed for a dry run."""

    file: Path
    dry_run: bool
    url: str
    token: str


@dataclass(slots=True)
class Seen:
    """The lines of a file that were read: by old id, and by number with the old id."""

    by_old_id: dict[str, int] = field(default_factory=dict)
    by_number: dict[str, tuple[int, str]] = field(default_factory=dict)

    def line_with_number(self, line: int, body: ImportOrderBody) -> int | None:
        """The earlier line with the number of this one, but another order; None if there is none."""
        if body.number is None:
            return None
        first, old_id = self.by_number.setdefault(body.number, (line, body.old_id))
        return None if old_id == body.old_id else first


@dataclass(slots=True)
class Report:
    """What became of the lines. `refused`: number of the line, code, sentence."""

    counts: Counter[str] = field(default_factory=Counter)
    refused: list[tuple[int, str, str]] = field(default_factory=list)

    def refuse(self, line: int, code: str, sentence: str) -> None:
        self.counts["refused"] += 1
        self.refused.append((line, code, sentence))


def run_import_orders(options: ImportOptions, terminal: Terminal) -> int:
    """Import the file, or with `dry_run` only check it. Returns 1 if a line was refused. Raises `ConfigError`."""
    total = sum(1 for _ in _lines(options.file))
    report = Report()
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=terminal.err,
        disable=not terminal.err.is_terminal,
    ) as bar:
        task = bar.add_task("checking" if options.dry_run else "importing", total=total)
        if options.dry_run:
            seen = Seen()
            for number, raw in _lines(options.file):
                _check(number, raw, seen, report)
                bar.advance(task)
        else:
            asyncio.run(_import(options, report, lambda: bar.advance(task)))
    _show(options, report, terminal)
    return int(bool(report.refused))


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """(number from 1, content) of the lines that are not blank. Raises `ConfigError`."""
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, line.strip()
    except OSError as exc:
        raise ConfigError(f"{file} cannot be read: {exc.strerror}") from None


def _check(number: int, raw: bytes, seen: Seen, report: Report) -> None:
    """What the API would refuse of a line, whatever the ledger has."""
    try:
        body = validated(ImportOrderBody, parse(raw))
        wanted = import_of(body, bytes(32))
    except Problem as exc:
        report.refuse(number, exc.slug, _where(exc))
        return
    first, first_with_number = seen.by_old_id.setdefault(body.old_id, number), seen.line_with_number(number, body)
    if first != number:
        report.refuse(number, "repeated-old-id", f"The old id is that of line {first}.")
    elif first_with_number is not None:
        _refuse_number(number, first_with_number, report)
    elif flaw := next(flaws(wanted.place), None):
        report.refuse(number, flaw.kind.replace("_", "-"), flaw.sentence)
    elif text := flaw_of_import(wanted, now_ms()):
        report.refuse(number, "invalid-field", sentence(text))
    else:
        report.counts["valid"] += 1


def _refuse_number(number: int, first: int, report: Report) -> None:
    report.refuse(number, "repeated-number", f"The number is that of line {first}, another order.")


def _where(problem: Problem) -> str:
    places = ", ".join(f"{error.pointer or '/'} ({error.code})" for error in problem.errors[:3])
    return f"{problem.detail} {places}".strip()


async def _import(options: ImportOptions, report: Report, advance: Any) -> None:
    lines, seen = _lines(options.file), Seen()
    headers = {"Authorization": f"Bearer {options.token}", "Content-Type": "application/json", "Prefer": "wait=10"}
    async with HttpClient(options.url, headers=headers, connections=AT_ONCE) as client:

        async def work() -> None:
            for number, raw in lines:  # shared: each worker takes the next line
                if (first := _line_with_number(number, raw, seen)) is None:
                    await _send(client, number, raw, report)
                else:
                    _refuse_number(number, first, report)
                advance()

        workers = [asyncio.create_task(work()) for _ in range(AT_ONCE)]
        try:
            await asyncio.gather(*workers)
        finally:  # an error of one ends all, before the client is closed
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


def _line_with_number(number: int, raw: bytes, seen: Seen) -> int | None:
    """As `Seen` says it; None also for a line that the API will refuse as it is."""
    try:
        return seen.line_with_number(number, validated(ImportOrderBody, parse(raw)))
    except Problem:
        return None


async def _send(client: HttpClient, number: int, raw: bytes, report: Report) -> None:
    """Send one line until it is decided. A repetition gets the first answer."""
    why = ""
    for _ in range(TRIES):
        try:
            async with asyncio.timeout(CALL_S):
                said = await client.request("POST", "/imports", body=raw)
        except (NoAnswer, TimeoutError) as exc:
            why = str(exc) or "time-out"
            await asyncio.sleep(PAUSE_S)
            continue
        if said.status not in _LATER:
            _note(number, said, report)
            return
        why = f"status {said.status}"
        await asyncio.sleep(max(PAUSE_S, retry_after_s(said.headers, now_ms() / 1000)))
    report.refuse(number, "not-decided", f"The ledger did not decide it in {TRIES} tries ({why}); run the verb again.")


def _note(number: int, said: HttpAnswer, report: Report) -> None:
    if said.ok:
        report.counts["imported before" if said.headers.get("Idempotency-Replayed") == "true" else "imported"] += 1
        return
    try:
        problem = json.loads(said.body)
        places = ", ".join(f"{error['pointer'] or '/'} ({error['code']})" for error in problem.get("errors") or [])
        report.refuse(number, problem["code"], f"{problem.get('detail') or problem['title']} {places}".strip())
    except (ValueError, KeyError, TypeError, AttributeError):
        report.refuse(number, f"status-{said.status}", "The answer is not one of this API.")
    if said.status in (401, 403):
        raise ConfigError("the API refuses the token: it must be that of an admin")


def _show(options: ImportOptions, report: Report, terminal: Terminal) -> None:
    report.refused.sort()
    if terminal.as_json:
        rows = [{"line": line, "code": code, "detail": detail} for line, code, detail in report.refused]
        write_json({"ok": not rows, "dry_run": options.dry_run, **report.counts, "refused": rows})
        return
    for line, code, why in report.refused[:MOST_SHOWN]:
        terminal.out.print(f"line {line}: {code}: {why}", style="red")
    if len(report.refused) > MOST_SHOWN:
        terminal.out.print(f"... and {len(report.refused) - MOST_SHOWN} more; --json lists all", style="red")
    parts = [f"{count:,} {name}" for name, count in report.counts.items()]
    terminal.out.print(", ".join(parts) or "the file has no orders")
