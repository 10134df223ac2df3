"""The processes of a rebuild: each folds a share of the partitions."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from ledger.errors import LedgerError
from ledger.log import EventLog, TopicPartition
from ledger.topics import Topics
from projections.bulk import BulkFold, FoldProgress, OnProgress
from projections.databases import Databases, OpenStore
from projections.digests import Digest


class JobFailed(LedgerError):
    """A process of the rebuild ended without finishing its share. Run the rebuild again to resume."""

    code = "job_failed"


class Doors(Protocol):
    """Opens the log and the stores. Must be picklable, because every process of a rebuild opens its own."""

    def enter_process(self) -> None:
        """Called first in every process of a rebuild."""

    def open_log(self) -> EventLog: ...

    def opener(self, folder: Path, loading: bool) -> OpenStore:
        """Returns a function that opens databases in `folder` by name. `loading`: they are filled but not read yet."""


@dataclass(frozen=True, slots=True)
class Share:
    """The share of one process: `partitions` up to `until`, folded into `folder`."""

    topics: Topics
    folder: Path
    partitions: list[int]
    until: Mapping[TopicPartition, int]


def fold_share(doors: Doors, share: Share, on_progress: OnProgress) -> dict[int, Digest]:
    """Fold a share in bulk, in one process of a rebuild. Returns the digests of its partitions."""
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)  # a fold creates no cycles, and searching for them takes a tenth of its time
    databases = Databases(doors.opener(share.folder, True), share.topics, share.partitions, None)
    try:
        bulk = BulkFold(doors.open_log(), databases, f"rebuild-{min(share.partitions)}")
        try:
            bulk.run(share.until, on_progress)
        finally:
            bulk.close()
        return databases.digests()
    finally:
        databases.close()


def _job(doors: Doors, share: Share, pipe: Connection) -> None:
    """`fold_share` in a separate process, which reports to the parent and ends with it."""
    doors.enter_process()
    try:
        fold_share(doors, share, pipe.send)
        pipe.send("done")
    except (BrokenPipeError, KeyboardInterrupt):
        return  # the parent is gone or stopping: what is folded is kept
    except LedgerError as exc:
        pipe.send(f"{exc.code}: {exc}")


@dataclass(slots=True)
class _Job:
    process: Any
    pipe: Connection
    progress: FoldProgress = field(default_factory=lambda: FoldProgress(0, 0, {}))
    done: bool = False


def _groups(partitions: int, jobs: int) -> list[list[int]]:
    return [group for n in range(jobs) if (group := list(range(n, partitions, jobs)))]
