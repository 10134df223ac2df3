"""The verb `export`: writes the ledger to a Parquet file for analysts."""

from __future__ import annotations

from pathlib import Path

from api.cli.archive import committed_records
from api.cli.parquet import ParquetFile
from api.cli.screens import LogProgress
from api.cli.tail import start_positions
from api.cli.terminal import Screen
from api.processes.signals import stopper
from api.processes.wiring import KafkaDoors
from api.settings import Settings
from ledger.errors import DecodeError
from ledger.kafka.settings import KafkaSettings
from ledger.schemas.codec import event_codec


def run_export(kafka: KafkaSettings, settings: Settings, path: Path, start: str, out: Screen, err: Screen) -> int:
    """Write every event from `start` to the current end of the log. Reports and omits undecodable records; then returns 1.

    Raises `ConfigError`, `LogError`, `Interrupted`.
    """
    stopping = stopper()
    event_log = KafkaDoors(kafka, settings.topics).open_log(stopping)
    starts = start_positions(event_log, settings.topics.events, start)
    ends = event_log.ends(starts, timeout_s=30.0)
    decode, left_out = event_codec().decode_fields, 0
    with LogProgress(err) as bar, ParquetFile(path) as file:
        for record in committed_records(event_log, starts, ends, bar, stopping):
            try:
                file.add(record.partition, record.offset, decode(record.value))
            except DecodeError as exc:
                left_out += 1
                err.print(f"{record.partition}-{record.offset} omitted: {exc}", style="red")
    size = path.stat().st_size / 1e6
    out.print(f"wrote {file.written:,} events to {path} ({size:,.1f} MB)")
    return int(left_out > 0)
