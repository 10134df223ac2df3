"""The feed over HTTP while `serve` is killed: a reader that stores its cursor with each event misses none and repeats none."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.log import TopicPartition
from ledger.topics import Topics
from tests.benchmarks.lives import write_lives
from tests.support import loopback, processes
from tests.support.patience import PATIENCE_S
from tests.support.rebuilds import running

pytestmark = pytest.mark.kafka
PARTITIONS = 4


class FeedReader:
    """Reads by pages and by streams, in turn, and ends in the middle of each; `cursor` is behind the last of `rows`."""

    def __init__(self, url: str, seed: int) -> None:
        self._url, self._choice = url, random.Random(seed)
        self._headers = {"Authorization": f"Bearer {processes.TOKENS['reader']}"}
        self.rows: list[dict[str, Any]] = []
        self.cursor = ""
        self.broken = 0

    def read_some(self) -> None:
        """One page, or a part of a stream. A broken connection costs what was under way."""
        try:
            with loopback.client(base_url=self._url, headers=self._headers, timeout=PATIENCE_S) as client:
                if self._choice.random() < 0.5:
                    self._page(client)
                else:
                    self._stream(client, self._choice.randrange(1, 900))
        except httpx.TransportError:
            self.broken += 1

    def _page(self, client: httpx.Client) -> None:
        after = {"after": self.cursor} if self.cursor else {}
        answer = client.get("/events", params={"limit": self._choice.choice((1, 77, 500)), **after})
        assert answer.status_code in (200, 503), answer.text
        if answer.status_code == 200:
            body = answer.json()
            self.rows += body["data"]
            self.cursor = body["next_cursor"]

    def _stream(self, client: httpx.Client, most: int) -> None:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": self.cursor}
        with client.stream("GET", "/events", headers=headers) as answer:
            if answer.status_code != 200:
                return
            for message in messages(answer):
                if "data" in message:
                    self.rows.append(json.loads(message["data"]))
                    most -= 1
                self.cursor = message.get("id", self.cursor)
                if most <= 0 or ("comment" in message and self.rows):
                    return


def messages(answer: httpx.Response) -> Iterator[dict[str, str]]:
    message: dict[str, str] = {}
    for line in answer.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            message[name or "comment"] = value
        elif message:
            yield message
            message = {}


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("events", "kills"), [(8_000, 3), pytest.param(100_000, 20, marks=pytest.mark.campaign)])
def test_a_reader_misses_no_event_while_serve_is_killed(
    tmp_path: Path, kafka: KafkaSettings, topics: Topics, events: int, kills: int
) -> None:
    log, choice = KafkaLog(kafka), random.Random(kills)
    write_lives(log, topics, PARTITIONS, events)
    with running(tmp_path, kafka, topics) as (node, serve):
        reader = FeedReader(node.url, kills)
        kill_at = sorted(choice.sample(range(1, events), kills))
        while len(reader.rows) < events:
            reader.read_some()
            if kill_at and len(reader.rows) >= kill_at[0]:
                kill_at.pop(0)
                serve.kill()
                reader.read_some()
                serve.start()
                node.wait_ready()
        assert serve.stop() == 0
    places = [(row["partition"], row["offset"]) for row in reader.rows]
    assert len(places) == len(set(places)) == events
    ends = log.ends([TopicPartition(topics.events, p) for p in range(PARTITIONS)], timeout_s=PATIENCE_S)
    assert all(offset < ends[TopicPartition(topics.events, p)] for p, offset in places)
    last: dict[str, int] = {}
    for row in reader.rows:
        assert row["version"] == last.get(row["order_id"], 0) + 1
        last[row["order_id"]] = row["version"]
    assert reader.broken >= kills
