"""The settings as a table: `python -m tests.readme.settings_table README.md`."""

from __future__ import annotations

import sys

from api.settings import Settings
from ledger.kafka.settings import KafkaSettings
from tests.readme import generated_blocks

SETTINGS_BEGIN = generated_blocks.begin("settings")


def settings_table() -> str:
    """Every setting as a Markdown table, for the README (a test holds the two together)."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for kind in (KafkaSettings, Settings):
        prefix = str(kind.model_config.get("env_prefix") or "")
        for name, field in kind.model_fields.items():
            default = field.get_default(call_default_factory=False)
            shown = "the host's name" if field.default_factory else "" if default in (None, "") else f"`{default}`"
            rows.append(f"| `{(prefix + name).upper()}` | {shown} | {field.description or ''} |")
    return "\n".join(rows)


def rewritten(text: str) -> str:
    """`text` with the table of settings made anew. Raises `NoBlock` when there is no place for it."""
    return generated_blocks.rewritten(text, {"settings": settings_table}, "settings")


def main(arguments: list[str]) -> int:
    """Rewrite each named file in place; 0 when done."""
    return generated_blocks.main(arguments, rewritten, "tests.readme.settings_table")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
