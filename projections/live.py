"""Communication between a running `serve` and the verbs beside it, by files, and the switch to a rebuilt generation.

The databases of a running `serve` cannot be opened by another process, so `rebuild` and `verify` ask:

    requests/<id>.json           {"want": "digests"} or {"want": "copy", "folder": ...}
    requests/<id>.answer.json    {"generation", "read_models", "log_ids", "digests", "checkpoints"} or {"error": ...}

A copy is a set of RocksDB checkpoints: files are linked, so it is cheap, and each database is consistent at some position.

The switch. When the pointer names another generation, `serve` opens it, folds what is missing in parallel with the live fold,
pauses the fold between two chunks until the new databases have reached the position of the old ones, and then reads and folds in
the new ones. Reads continue all the time and never go back in time.
"""

from __future__ import annotations

import asyncio
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import structlog

from ledger.errors import ConfigError, LedgerError, LogError, StoreError
from ledger.files import write_json
from ledger.log import EventLog
from ledger.turns import Turns
from projections.bulk import BulkFold
from projections.databases import Databases, OtherReadModels, store_name
from projections.digests import Digest
from projections.freshness import Note, write_note
from projections.generations import Generations, read_json
from projections.projector import Projector
from projections.read_models import VERSION

log = structlog.get_logger(__name__)

TEND_EVERY_S = 0.2
SOME_CHECKPOINTS = 100
RETRY_S = 1.0
ANSWER_S = 20.0
REQUEST_AGE_S = 600.0  # an unanswered request or a copy older than this is abandoned


class NodeSilent(LedgerError):
    """A process has the databases open but does not answer."""

    code = "no_answer"


# ---- the requesting side


def ask(root: Path, want: str, log_ids: Mapping[str, bytes], timeout_s: float = ANSWER_S, **more: Any) -> dict[str, Any]:
    """The answer of the `serve` that uses `root`. `log_ids`: of the topics that the asking verb reads.

    Raises `OtherReadModels` if it has another version, `NodeSilent`, `ConfigError` if it reads other topics, or `LedgerError` if
    it answers with an error.
    """
    name = uuid.uuid4().hex
    question, answer = root / "requests" / f"{name}.json", root / "requests" / f"{name}.answer.json"
    write_json(question, {"want": want, **more})
    deadline = time.monotonic() + timeout_s
    try:
        while (content := read_json(answer)) is None:
            if time.monotonic() > deadline:
                raise NodeSilent(f"the databases in {root} are open in a process that does not answer: is `serve` hanging?")
            time.sleep(0.05)
    finally:
        question.unlink(missing_ok=True)
        answer.unlink(missing_ok=True)
    if "error" in content:
        raise LedgerError(f"`serve` answers: {content['error']}")
    if content["read_models"] != VERSION:
        raise OtherReadModels(f"the running `serve` has read models of version {content['read_models']}, this program {VERSION}")
    for topic, log_id in content.get("log_ids", {}).items():
        if log_id not in ("", log_ids[topic].hex()):
            raise ConfigError(
                f"the running `serve` reads another {topic}: run this with its KAFKA_BOOTSTRAP_SERVERS and TOPIC_PREFIX"
            )
    reply: dict[str, Any] = content
    return reply


def serving(root: Path) -> str | None:
    """The generation that the running `serve` reads, according to its own file."""
    announced = read_json(root / "serving.json")
    return None if announced is None else str(announced["generation"])


def digest_to_json(digest: Digest) -> dict[str, Any]:
    """A digest as JSON, for answers."""
    return {"events": digest.events, "position": digest.position, "value": digest.hex()}


def digest_from_json(members: dict[str, Any]) -> Digest:
    """A digest from an answer."""
    return Digest(members["events"], members["position"], bytes.fromhex(members["value"]))


# ---- the serving side


class LiveNode:
    """Serves the verbs beside `serve`. Everything except opening, closing and catching up runs on the event loop."""

    def __init__(
        self,
        generations: Generations,
        name: str,
        projector: Projector,
        event_log: EventLog,
        open_databases: Callable[[str], Databases],
        held: Callable[[], AbstractAsyncContextManager[None]],
        reposition: Callable[[], object],
        current_at: Callable[[], float | None] = lambda: None,
    ) -> None:
        """`held` pauses the fold between two chunks; `reposition` continues reading from the projector's positions.

        `current_at` is when everything committed was last folded (`time.monotonic`, s).
        """
        self._generations, self._name, self._projector, self._log = generations, name, projector, event_log
        self._open, self._held, self._reposition, self._current_at = open_databases, held, reposition, current_at
        self._refused: str | None = None
        self._noted: tuple[str, float] | None = None

    async def tend_for_ever(self) -> None:
        """Check for requests and for another generation, repeatedly."""
        await asyncio.to_thread(self._clear_requests, 0.0)
        await asyncio.to_thread(self._generations.remove_unused, self._name)
        await asyncio.to_thread(self._announce)
        while True:
            await asyncio.sleep(TEND_EVERY_S)
            wanted = self._generations.current()
            if wanted is None or wanted != self._refused:  # otherwise a program that can read it answers
                await self._answer_all()
            if wanted not in (None, self._name, self._refused):
                await self._take_over(str(wanted))
            await self._note_current()

    def _announce(self) -> None:
        write_json(self._generations.root / "serving.json", {"generation": self._name})

    async def _note_current(self) -> None:
        """Note when this generation was last current, for a start while the log is unreachable."""
        at = self._current_at()
        if at is None or self._noted == (self._name, at):
            return
        self._noted = (self._name, at)
        note = Note(time.time() - (time.monotonic() - at), self._projector.positions())
        try:
            await asyncio.to_thread(write_note, self._generations.folder(self._name), note)
        except OSError as exc:  # a start while the log is unreachable would report reads as older than they are
            log.warning("freshness of reads could not be noted", why=str(exc))

    # ---- requests

    async def _answer_all(self) -> None:
        there = list((self._generations.root / "requests").glob("*"))
        for path in there:
            if path.suffix != ".json" or path.name.endswith(".answer.json"):
                continue
            question = await asyncio.to_thread(self._question, path)
            if question is not None:
                answer = await self._answer(question)
                await asyncio.to_thread(write_json, path.with_name(f"{path.stem}.answer.json"), answer)
                path.unlink(missing_ok=True)
        if there:
            await asyncio.to_thread(self._clear_requests, REQUEST_AGE_S)

    @staticmethod
    def _question(path: Path) -> Any:
        """The request; None if it is gone, or cannot be read, so that other requests do not wait for it."""
        try:
            return read_json(path)
        except StoreError as exc:
            log.warning("request could not be read", why=str(exc))
            path.unlink(missing_ok=True)
            return None

    async def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        databases = self._projector.databases
        try:
            if question["want"] == "copy":
                await asyncio.to_thread(self._copy, databases, Path(question["folder"]))
            elif question["want"] != "digests":
                return {"error": f"unknown request {question['want']!r}"}
        except StoreError as exc:
            return {"error": str(exc)}
        answer = {
            "generation": self._name,
            "read_models": VERSION,
            "log_ids": {topic: log_id.hex() for topic, log_id in databases.log_ids().items()},
            "digests": {str(p): digest_to_json(digest) for p, digest in databases.digests().items()},
        }
        return answer | {"checkpoints": await self._checkpoints(databases)}

    @staticmethod
    async def _checkpoints(databases: Databases) -> dict[str, list[dict[str, Any]]]:
        """One for every 10,000 events, read in steps."""
        by_partition: dict[str, list[dict[str, Any]]] = {}
        for p in databases.stores:
            kept = by_partition[str(p)] = []
            for digest in databases.checkpoints(p):
                kept.append(digest_to_json(digest))
                if len(kept) % SOME_CHECKPOINTS == 0:
                    await asyncio.sleep(0)
        return by_partition

    @staticmethod
    def _copy(databases: Databases, folder: Path) -> None:
        for p, store in databases.stores.items():
            store.copy_to(folder / store_name(p))

    def _clear_requests(self, older_than_s: float) -> None:
        """Delete requests and copies of killed processes."""
        oldest = time.time() - older_than_s
        for path in (self._generations.root / "requests").glob("*"):
            try:
                if path.stat().st_mtime > oldest:
                    continue
            except FileNotFoundError:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    # ---- another generation

    async def _take_over(self, wanted: str) -> None:
        before, live = self._name, self._projector.databases
        log.info("switching to another generation", generation=wanted, instead_of=before)
        try:
            databases = await asyncio.to_thread(self._open, wanted)
        except OtherReadModels as exc:
            self._refused = wanted
            log.warning(
                "this version cannot read the new generation, start the version that built it", generation=wanted, why=str(exc)
            )
            return
        try:
            await self._switch_to(wanted, databases)
        except LogError as exc:  # the broker is unreachable: the pointer is unchanged, so it is retried
            await self._settle(wanted, live, databases)
            log.warning("the switch to the other generation is delayed", why=str(exc))
            await asyncio.sleep(RETRY_S)
            return
        except Exception:
            await self._settle(wanted, live, databases)
            raise
        await self._settle(wanted, live, databases)
        if self._name == wanted:
            await asyncio.to_thread(self._announce)
            log.info("switched to another generation", generation=wanted, before=before)
            await asyncio.to_thread(self._put_aside, before)

    async def _settle(self, wanted: str, before: Databases, after: Databases) -> None:
        """Note which of the two are read now, and close the others: the next try could not open them."""
        is_switched = self._projector.databases is after
        self._name = wanted if is_switched else self._name
        await asyncio.to_thread((before if is_switched else after).close)

    async def _switch_to(self, wanted: str, databases: Databases) -> None:
        """Read from `databases` instead of the current ones, unless they are of another log. Raises what opening a reader raises,
        and folding what is missing."""
        if not await asyncio.to_thread(self._is_of_this_log, databases):
            self._refused = wanted
            log.error("the new generation was built from another log, staying with the old one", generation=wanted)
            return
        bulk = BulkFold(self._log, databases, "take-over")
        try:
            await asyncio.to_thread(lambda: bulk.run(bulk.ends()))
            async with self._held():
                behind = {tp: at for tp, at in self._projector.positions().items() if databases.position(tp) < at}
                await asyncio.to_thread(bulk.run, behind)
                self._projector.take_over(databases)
                self._reposition()
            await Turns().run(self._projector.wake_outcomes())
        finally:
            await asyncio.to_thread(bulk.close)

    def _is_of_this_log(self, databases: Databases) -> bool:
        """Whether `databases` are folded from the topics that this process reads; notes these beside positions without any."""
        live = self._projector.databases
        ids, built = live.log_ids(), databases.log_ids()
        if any(built[topic] and log_id and built[topic] != log_id for topic, log_id in ids.items()):
            return False
        databases.note_log({topic: log_id or built[topic] for topic, log_id in ids.items()})
        if live.contacts is not None and databases.contacts is not None:
            databases.contacts.note_log(live.contacts.log_id)
        return True

    def _put_aside(self, before: str) -> None:
        if self._generations.kept() == before:  # contacts can be erased, even while nobody folds this generation
            self._generations.remove_contacts(before)
        self._generations.remove_unused(self._name)
