"""The settings, as a table. Pure."""

from __future__ import annotations

from api.settings import Settings
from ledger.kafka.settings import KafkaSettings


def table() -> str:
    """A row per setting, in Markdown."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for kind in (KafkaSettings, Settings):
        prefix = str(kind.model_config.get("env_prefix") or "")
        for name, field in kind.model_fields.items():
            default = field.get_default(call_default_factory=False)
            shown = "the host's name" if field.default_factory else "" if default in (None, "") else f"`{default}`"
            rows.append(f"| `{(prefix + name).upper()}` | {shown} | {field.description or ''} |")
    return "\n".join(rows)
