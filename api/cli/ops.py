"""The verb `ops export`: writes the files for operators that are in the wheel. `api/ops/README.md` says what they are."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from api.cli.terminal import Terminal, write_json
from ledger.errors import ConfigError
from ledger.files import write_whole

RUNBOOK, ALERTS, DASHBOARD = "RUNBOOK.md", "prometheus/alerts.yml", "grafana/order-ledger.json"
# The same again where Kustomize can read it: it reads no file outside its folder.
RULE_OBJECT = "kubernetes/monitoring/order-ledger-alerts.yaml"
DASHBOARD_COPY = "kubernetes/monitoring/order-ledger.json"
RULE_HEAD = "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: order-ledger\nspec:\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """`folder`: where to write. `runbook_url`: address of RUNBOOK.md where alerts are read. `replace`: also changed files."""

    folder: Path
    runbook_url: str | None = None
    replace: bool = False


def contents(runbook_url: str | None = None) -> dict[str, str]:
    """Text of each file by its path in the folder, with slashes."""
    texts = dict(_texts(files("api") / "ops", ""))
    if runbook_url is not None:
        texts[ALERTS] = texts[ALERTS].replace(f"runbook_url: {RUNBOOK}#", f"runbook_url: {runbook_url}#")
    texts[RULE_OBJECT] = RULE_HEAD + textwrap.indent(texts[ALERTS], "  ")
    texts[DASHBOARD_COPY] = texts[DASHBOARD]
    return dict(sorted(texts.items()))


def _texts(folder: Traversable, path: str) -> Iterator[tuple[str, str]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _texts(entry, f"{path}{entry.name}/")
        else:
            yield f"{path}{entry.name}", entry.read_text("utf-8")


def run_export(options: ExportOptions, terminal: Terminal) -> int:
    """Write all files. Returns 0. Raises `ConfigError`, having written nothing, if one is there with another text; `OSError`."""
    texts = contents(options.runbook_url)
    changed = [name for name, text in texts.items() if _differs(options.folder / name, text)]
    if changed and not options.replace:
        names = ", ".join(changed)
        raise ConfigError(
            f"{options.folder} has other versions of {names}: choose another directory, or replace them with --force"
        )
    for name, text in texts.items():
        (options.folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_whole(options.folder / name, text)
    if terminal.as_json:
        write_json({"folder": str(options.folder), "files": list(texts)})
        return 0
    for name in texts:
        terminal.out.print(name)
    terminal.out.print(f"{len(texts)} files are in {options.folder}. README.md there says how to use them.", style="green")
    return 0


def _differs(path: Path, text: str) -> bool:
    try:
        return path.read_bytes() != text.encode()
    except FileNotFoundError:
        return False
