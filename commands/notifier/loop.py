"""Notifies customers about their orders: placed, paid, shipped, delivered, cancelled, refunded.

Edge-triggered, unlike the reconciler: it reads the events in order, from a position of its own that is stored in the log.

    first start    begins at the end of the log; events older than a day are never announced
    a message      is sent, then the place behind it is written, a few times a second (`places`): delivery is at least once, and
                   a repeated message has the same key
    a failure      that may be temporary is retried for a quarter of an hour, then given up with an error in the log. Meanwhile
                   only messages of the same order wait, and after a restart those that wait are sent, not what followed
    a contact      comes from a fold of all of `order-contacts` in a separate database, which must reach the end of the log before
                   anything is sent. If it is erased, nothing more is sent, and copies that a door has kept are deleted
    a template     of the shop that fails is replaced by the shipped one (`composing`)
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import structlog
from msgspec import Struct

from commands.notifier.followed_contacts import FollowedContacts
from commands.notifier.message_port import FAILED_TEMPLATES, MessageComposer, MessageDoor, NotSent, OutMessage
from commands.notifier.notices import completes_nothing, notice_of
from commands.notifier.places import Progress, Stored, stored_of
from commands.notifier.resuming import note_of, resume_at
from commands.processor.order_book import OrderBook
from ledger import tracing
from ledger.contacts import contact_key
from ledger.durations import DAY_MS
from ledger.errors import DecodeError, Hole, LogError, StoreError
from ledger.events import OrderEvent
from ledger.evolve import evolve
from ledger.faults import in_short
from ledger.log import NOTE_AGAIN_S, EventLog, Record, TopicPartition
from ledger.log_clock import LogClock
from ledger.log_identity import Mark
from ledger.order import FoldError, Order
from ledger.schemas.codec import event_codec, link_of
from ledger.store import Store
from ledger.supervision import WorkerThread
from ledger.topics import Topics

MAX_AGE_MS = DAY_MS
SENT, GIVEN_UP, TOO_OLD = "sent", "given_up", "too_old"
TRY_FOR_S = 15 * 60.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
MAX_PARKED = 1_000
POLL_S = 0.2
TURN_S = 1.0  # of sending, before it looks after everything else
WRITE_EVERY_S = 0.25  # after a kill, messages sent since then are sent again
CHUNK = 200

log = structlog.get_logger(__name__)


class Parked(Struct):
    """An unsent message of the event at `offset`, behind the one with `link`, waiting for a retry. Times are `time.monotonic`."""

    tp: TopicPartition
    offset: int
    link: bytes
    order_id: str
    version: int
    contact_key: bytes
    message: OutMessage
    since: float
    next_at: float
    trace: bytes | None
    tries: int = 0


class Notifier:
    """A `Companion` of the `commands` process. `doors` send what `composer` makes, by channel; its position is under `group`."""

    def __init__(
        self,
        event_log: EventLog,
        topics: Topics,
        book_of: Callable[[int], OrderBook],
        open_store: Callable[[str], Store],
        doors: Mapping[str, MessageDoor],
        composer: MessageComposer,
        group: str,
        on_fatal: Callable[[BaseException], None],
        *,
        clock: LogClock,
    ) -> None:
        self._log, self._topics, self._book_of = event_log, topics, book_of
        self._doors, self._composer, self._group, self._clock = doors, composer, group, clock
        self._codec = event_codec()
        self._lock = threading.Lock()
        self._owned: set[int] = set()
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._contacts = FollowedContacts(event_log, topics, book_of, open_store, doors, self._stopping, clock.machine_ms)
        self._places: dict[TopicPartition, Progress] = {}
        self._written: dict[TopicPartition, Stored] = {}
        self._parked: deque[Parked] = deque()
        self._arrived: deque[Record] = deque()  # not announced yet
        self._silent: dict[str, tuple[int, float]] = {}  # channel -> attempts without any answer, and until when to make no other
        self._thread = WorkerThread("notifier", self._run, on_fatal, again=True, stopping=self._stopping)
        self._lost_place = False
        self.fates: Counter[tuple[str, str]] = Counter()  # messages by channel and what became of them: `SENT`, `GIVEN_UP`

    @property
    def restarts(self) -> int:
        """How often its thread was restarted."""
        return self._thread.restarts

    def counts(self) -> dict[str, int]:
        failures = self._composer.failures
        return {"messages sent": self.with_fate(SENT), "messages given up": self.with_fate(GIVEN_UP), FAILED_TEMPLATES: failures}

    def with_fate(self, fate: str) -> int:
        """Number of messages of all channels, since the start."""
        return sum(count for (_, one), count in self.fates.copy().items() if one == fate)

    @property
    def parked(self) -> int:
        """Messages that wait to be sent again."""
        return len(self._parked)

    # ---- from other threads

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def own(self, partitions: Sequence[int]) -> None:
        with self._lock:
            self._owned.update(partitions)
        self._changed.set()

    def disown(self, partitions: Sequence[int]) -> None:
        with self._lock:
            self._owned.difference_update(partitions)
        self._changed.set()

    def changed(self, orders: Sequence[Order]) -> None:
        """Does nothing: the notifier reads events."""

    def asked(self, order_ids: Sequence[str]) -> None:
        """Does nothing."""

    # ---- the thread

    def _run(self) -> None:
        """Run until stopped; restart after a failure. Meanwhile messages are delayed, but orders are decided."""
        if self._lost_place:
            self._forget_positions()
        try:
            self._work()
        except Hole as exc:
            # The positions belong to another log: start at the end of this one.
            log.error("notifier position is not in the log, resuming at the end", why=str(exc))
            self._lost_place = True
            raise

    def _work(self) -> None:
        with ExitStack() as closing:
            self._bookmark = self._log.bookmark(self._group)
            closing.callback(self._bookmark.close)
            self._contacts.open(closing)
            self._reader = self._log.reader("notifier", max_wait_ms=100, headers=tracing.tracer() is not None)
            closing.callback(self._reader.close)
            self._changed.set()
            note_again_at, write_at = time.monotonic() + NOTE_AGAIN_S, 0.0
            while not self._stopping.is_set():
                if self._changed.is_set():
                    self._assign()
                if not self._places:
                    self._changed.wait(POLL_S)
                elif len(self._parked) >= MAX_PARKED:
                    self._stopping.wait(POLL_S)
                elif not self._arrived:
                    self._arrived.extend(self._reader.poll(CHUNK, POLL_S))
                as_the_log = self._contacts.fold_arrived()
                if self._arrived and not as_the_log:
                    self._contacts.fold_to_end()
                    as_the_log = True
                self._take(time.monotonic() + TURN_S)
                if as_the_log:
                    self._try_parked(time.monotonic() + TURN_S)
                self._contacts.purge()
                if (now := time.monotonic()) >= write_at:
                    self._write_positions(again := now > note_again_at)
                    write_at = now + WRITE_EVERY_S
                    if again:
                        note_again_at = now + NOTE_AGAIN_S
            self._write_positions()

    def _assign(self) -> None:
        self._changed.clear()
        self._write_positions()  # of partitions that another process may take now
        with self._lock:
            wanted = {TopicPartition(self._topics.events, p) for p in self._owned}
        for tp in self._places.keys() - wanted:
            del self._places[tp]
            self._written.pop(tp, None)
        self._parked = deque(p for p in self._parked if p.tp in wanted)
        self._arrived.clear()  # they are read again
        if fresh := sorted(wanted - self._places.keys()):
            self._resume(fresh)
        self._reader.assign({tp: place.position for tp, place in self._places.items()})

    def _resume(self, fresh: Sequence[TopicPartition]) -> None:
        log_id = self._log.topic_id(self._topics.events)
        known, notes = self._bookmark.read(fresh), self._bookmark.notes(fresh)
        stored = {tp: stored_of(at, notes[tp]) for tp, at in known.items() if at is not None}
        ends = self._log.ends(fresh)
        places = {tp: Stored(Mark(end, log_id, b""), end) for tp, end in ends.items() if tp not in stored}
        self._write(places)  # immediately: later events are announced, whenever the next start is
        for tp, mark in resume_at(self._log, self._topics, log_id, {tp: one.mark for tp, one in stored.items()}).items():
            # In another log, or in one that lost its end, it is unknown what was sent behind the position: all of it is.
            is_same = stored[tp].mark.log_id == log_id and stored[tp].done <= ends[tp]
            places[tp] = stored[tp] if is_same else Stored(mark._replace(log_id=log_id), mark.position)
        # Immediately, too: at the next start, the end of another log would be a later one.
        self._write({tp: place for tp, place in places.items() if tp in stored and place != stored[tp]})
        starts = self._log.starts(fresh)
        for tp, place in places.items():
            self._places[tp] = Progress(place, starts[tp])
            self._written[tp] = place

    def _forget_positions(self) -> None:
        ends = self._log.ends(self._places)
        bookmark = self._log.bookmark(self._group)
        try:
            bookmark.write(ends, dict.fromkeys(ends, note_of(self._log.topic_id(self._topics.events), b"")))
        finally:
            bookmark.close()
        self._lost_place = False
        self._places.clear()
        self._parked.clear()
        self._arrived.clear()

    # ---- events

    def _take(self, until: float) -> None:
        """Announce what has arrived, until a time of `time.monotonic`: contacts and partitions must be looked after meanwhile."""
        while self._arrived and len(self._parked) < MAX_PARKED:
            record = self._arrived.popleft()
            tp = TopicPartition(record.topic, record.partition)
            if (place := self._places.get(tp)) is None:
                continue
            if place.is_done(record.offset):
                place.passed(record.offset, link_of(record.value or b""))
                continue
            try:
                event = self._codec.decode(record.value)
            except DecodeError as exc:
                log.error("undecodable event, no message sent", partition=record.partition, offset=record.offset, why=str(exc))
                event = None
            if event is not None:
                try:
                    self._notify(tp, record.offset, event, tracing.context_in(record.headers))
                except (LogError, StoreError):
                    raise  # a fault of the log or the disk, not of this event: it is read again
                except Exception as exc:
                    self._give_up(event.order_id, event.version, "any", exc)
            place.passed(record.offset, link_of(record.value or b""))
            if self._stopping.is_set() or time.monotonic() >= until:
                return

    def _notify(self, tp: TopicPartition, offset: int, event: OrderEvent, trace: bytes | None) -> None:
        notice = notice_of(event)
        if notice is None:
            return
        if event.occurred_at < self._clock.earliest_ms(tp.partition) - MAX_AGE_MS:
            self.fates["any", TOO_OLD] += 1
            return
        order = self._order(tp.partition, event)
        if order is None or completes_nothing(event, order):
            return
        key = contact_key(order.order_id, order.contact_digest)
        contact = self._contacts.contact(key)
        if contact is None:
            return
        now = time.monotonic()
        channels = frozenset(channel for channel in self._doors if self._places[tp].owes(offset, channel))
        for message in self._composer.messages_of(event, order, notice, contact, channels):
            waiting = any(p.order_id == event.order_id and p.message.channel == message.channel for p in self._parked)
            parked = Parked(tp, offset, event.prev_hash, event.order_id, event.version, key, message, now, now, trace)
            if waiting or self._is_silent(parked) or not self._send(parked):
                self._parked.append(parked)

    def _order(self, partition: int, event: OrderEvent) -> Order | None:
        """The order as of a first event, else as of now; None if it cannot be folded."""
        try:
            order = evolve(None, event) if event.content else self._book_of(partition).order(partition, event.order_id)
        except FoldError:
            order = None
        if order is None:
            log.warning("order cannot be folded, no message sent", order_id=event.order_id, version=event.version)
        return order

    def _send(self, parked: Parked) -> bool:
        """Returns whether the message is finished: sent, or given up."""
        parked.tries += 1
        try:
            with tracing.span(f"send {parked.message.channel}", "client", parked.trace) as span:
                span.note(ledger__order_id=parked.order_id, ledger__version=parked.version)
                self._doors[parked.message.channel].send(parked.message)
        except Exception as exc:
            if not isinstance(exc, NotSent):
                self._give_up(parked.order_id, parked.version, parked.message.channel, exc)
                return True
            about = {"order_id": parked.order_id, "version": parked.version, "channel": parked.message.channel, "why": str(exc)}
            if exc.again and time.monotonic() - parked.since < TRY_FOR_S:
                parked.next_at = time.monotonic() + min(FIRST_PAUSE_S * 2 ** (parked.tries - 1), LONGEST_PAUSE_S)
                if not exc.is_reached:
                    self._silence(parked.message.channel)
                log.warning("message not sent yet", tries=parked.tries, **about)
                return False
            self.fates[parked.message.channel, GIVEN_UP] += 1
            log.error("message given up", tries=parked.tries, **about)
            return True
        self.fates[parked.message.channel, SENT] += 1
        self._silent.pop(parked.message.channel, None)
        return True

    def _silence(self, channel: str) -> None:
        tries, _ = self._silent.get(channel, (0, 0.0))
        self._silent[channel] = tries + 1, time.monotonic() + min(FIRST_PAUSE_S * 2**tries, LONGEST_PAUSE_S)

    def _is_silent(self, parked: Parked) -> bool:
        """Whether nobody answered on this channel a moment ago: then one message after the other would wait for an answer."""
        return time.monotonic() < self._silent.get(parked.message.channel, (0, 0.0))[1]

    def _give_up(self, order_id: str, version: int, channel: str, exc: Exception) -> None:
        """Drop the message after an unexpected error. The error text is not logged: it may contain an address."""
        self.fates[channel, GIVEN_UP] += 1
        log.error("message given up", order_id=order_id, version=version, channel=channel, why=in_short(exc))

    def _try_parked(self, until: float) -> None:
        left: deque[Parked] = deque()
        waiting: set[tuple[str, str]] = set()
        for parked in self._parked:
            place = (parked.order_id, parked.message.channel)
            if self._contacts.is_gone(parked.contact_key):
                log.info("message dropped, its contact is erased", order_id=parked.order_id, version=parked.version)
                continue
            now = time.monotonic()
            if self._is_silent(parked) and now - parked.since >= TRY_FOR_S:
                nobody = TimeoutError("nobody answers on this channel")
                self._give_up(parked.order_id, parked.version, parked.message.channel, nobody)
                continue
            later = place in waiting or now < parked.next_at or now > until or self._is_silent(parked)
            if later or self._stopping.is_set() or not self._send(parked):
                left.append(parked)
                waiting.add(place)
        self._parked = left

    def _write_positions(self, all_of_them: bool = False) -> None:
        """Write the places, with the messages that wait."""
        parked: dict[TopicPartition, list[tuple[int, bytes, str]]] = {}
        for one in self._parked:
            parked.setdefault(one.tp, []).append((one.offset, one.link, one.message.channel))
        places = {tp: place.stored(parked.get(tp, [])) for tp, place in self._places.items()}
        self._write({tp: place for tp, place in places.items() if all_of_them or place != self._written[tp]})

    def _write(self, news: Mapping[TopicPartition, Stored]) -> None:
        if news:
            self._bookmark.write(
                {tp: one.mark.position for tp, one in news.items()}, {tp: one.note() for tp, one in news.items()}
            )
            self._written |= news
