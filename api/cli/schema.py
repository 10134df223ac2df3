"""The verbs `schema check` and `schema publish`."""

from __future__ import annotations

from rich.table import Table

from api.cli.terminal import Screen, write_json
from ledger.schemas.compatibility import check_compatible
from ledger.schemas.registry import check_registry, publish
from ledger.schemas.versions import schema_versions


def run_check(registry: str | None, prefix: str, as_json: bool, out: Screen) -> int:
    """Compare every released schema with every other version of its subject. Returns 1 if two are incompatible."""
    schemas = schema_versions()
    problems = check_compatible(schemas)
    if registry:
        check_registry(registry, prefix)
    if as_json:
        subjects = [{"subject": s.subject(prefix), "version": s.version, "id": s.id} for s in schemas]
        write_json({"schemas": subjects, "incompatible": [str(problem) for problem in problems]})
        return 1 if problems else 0
    table = Table("subject", "version", "id")
    for schema in schemas:
        table.add_row(schema.subject(prefix), str(schema.version), str(schema.id))
    out.print(table)
    for problem in problems:
        out.print(str(problem), style="red")
    if not problems:
        out.print("Every version can read every other one (FULL_TRANSITIVE).", style="green")
        if registry:
            out.print("The registry has the same schemas under the same ids.", style="green")
    return 1 if problems else 0


def run_publish(registry: str, prefix: str, out: Screen) -> int:
    """Publish every schema to the registry under its own id. Raises `ConfigError` if the registry refuses."""
    publish(registry, prefix)
    out.print(f"{len(schema_versions())} schemas are in the registry under their own ids.", style="green")
    return 0
