"""The tokens file of a running `serve`: reloaded when it changes, ignored when it is invalid; and when tokens expire."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import structlog

from api.callers.auth import Principal, Tokens, hash_token, load_tokens, new_token
from api.callers.tokens_file import TokensFile
from api.settings import Settings
from ledger.errors import ConfigError

DAY_MS = 24 * 60 * 60 * 1000
END = "2030-01-31T12:00:00Z"
END_MS = 1_896_091_200_000


class Clock:
    def __init__(self, now_ms: int = END_MS - 100 * DAY_MS) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


def entry(token: str, name: str = "web", role: str = "gateway", **more: Any) -> dict[str, Any]:
    return {"name": name, "role": role, "sha256": [hash_token(token)]} | more


def text(*entries: dict[str, Any]) -> str:
    return json.dumps({"tokens": list(entries)})


class Watched:
    """A tokens file and its watcher. Only `write` and `check` change anything: no time passes."""

    def __init__(self, path: Path, *entries: dict[str, Any]) -> None:
        self.path = path
        path.write_text(text(*entries))
        self.clock = Clock()
        self.heard: list[str] = []
        self.file = TokensFile(Settings(_env_file=None, ledger_tokens_file=path), self.clock)
        self.file.on_reload = self.heard.append
        self._changes = 0

    def write(self, content: str) -> None:
        """Write another file with another time, however coarse the clock of the file system is."""
        self.path.write_text(content)
        self._changes += 1
        os.utime(self.path, (1_000_000 + self._changes,) * 2)

    def check(self, times: int = 2) -> list[dict[str, Any]]:
        """The lines logged meanwhile. The first check sees a change, the second that the file is no longer being written."""
        with structlog.testing.capture_logs() as logs:
            for _ in range(times):
                self.file.check()
        return [dict(entry) for entry in logs]

    def takes(self, token: str) -> bool:
        known = self.file.tokens.find(token.encode())
        return known is not None and self.file.tokens.accepts(known)


def test_a_changed_file_is_reloaded_without_a_restart(tmp_path: Path) -> None:
    old, new = new_token("gateway"), new_token("gateway")
    watched = Watched(tmp_path / "tokens.json", entry(old))
    assert watched.check() == []
    watched.write(text(entry(new)))
    (line,) = watched.check()
    assert (line["event"], line["added"], line["removed"], line["known"]) == ("tokens reloaded from the file", 1, 1, 1)
    assert (watched.takes(old), watched.takes(new)) == (False, True)
    assert watched.heard == ["taken"]
    assert watched.check(5) == []
    assert +watched.file.tokens.reloads == {"taken": 1}


def test_a_file_that_is_being_written_is_left_until_it_is_complete(tmp_path: Path) -> None:
    old, new = new_token("gateway"), new_token("gateway")
    watched = Watched(tmp_path / "tokens.json", entry(old))
    whole = text(entry(new))
    for size in (1, len(whole) // 2, len(whole)):
        watched.write(whole[:size])
        assert watched.check(1) == []
        assert watched.takes(old)
    assert len(watched.check(1)) == 1
    assert watched.takes(new)


def test_a_file_put_in_its_place_is_seen_whatever_its_size_and_time(tmp_path: Path) -> None:
    old, new = new_token("gateway"), new_token("gateway")
    watched = Watched(tmp_path / "tokens.json", entry(old))
    before = watched.path.stat()
    other = tmp_path / "other"
    other.write_text(text(entry(new)))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert other.stat().st_size == before.st_size
    other.replace(watched.path)
    watched.check()
    assert (watched.takes(old), watched.takes(new)) == (False, True)


BROKEN = ["", "{", '{"tokens": []}', '{"tokens": [{"name": "a"}]}', text(entry("x"), entry("y")), "\0" * 100]


@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_file_keeps_the_previous_tokens_and_is_logged_once(content: str, tmp_path: Path) -> None:
    old, new = new_token("gateway"), new_token("gateway")
    watched = Watched(tmp_path / "tokens.json", entry(old))
    watched.write(content)
    (line,) = watched.check(10)
    assert (line["log_level"], line["event"]) == ("error", "tokens file is invalid, keeping the previous tokens")
    assert str(watched.path) in line["why"]
    assert "\n" not in line["why"]
    assert watched.takes(old)
    assert watched.file.tokens.is_stale
    assert watched.heard == ["refused"]
    watched.write(text(entry(new)))
    watched.check()
    assert watched.takes(new)
    assert not watched.file.tokens.is_stale
    assert +watched.file.tokens.reloads == {"refused": 1, "taken": 1}


def test_a_missing_file_is_a_broken_one_and_may_come_back(tmp_path: Path) -> None:
    token = new_token("gateway")
    watched = Watched(tmp_path / "tokens.json", entry(token))
    aside = tmp_path / "aside"
    watched.path.rename(aside)
    (line,) = watched.check(3)
    assert "cannot be read" in line["why"]
    assert watched.takes(token)
    aside.rename(watched.path)
    (line,) = watched.check(3)
    assert line["event"] == "tokens file is valid again, unchanged"
    assert not watched.file.tokens.is_stale


def test_a_token_ends_at_its_own_time_or_its_entrys_whichever_is_first() -> None:
    one, two, three = "one", "two", "three"
    hashes = [
        {"sha256": hash_token(one), "expires_at": "2030-01-31T13:00:00+02:00"},
        {"sha256": hash_token(two), "expires_at": "2031-01-31T12:00:00Z"},
        hash_token(three),
    ]
    loaded = load_tokens(Settings(_env_file=None, ledger_tokens=text({**entry(one, expires_at=END), "sha256": hashes})))
    known_by_token = {token: loaded.find(token.encode()) for token in (one, two, three)}
    ends = {token: known.expires_at_ms for token, known in known_by_token.items() if known is not None}
    assert ends == {one: END_MS - 60 * 60 * 1000, two: END_MS, three: END_MS}
    assert {known.principal for known in loaded.known} == {Principal("web", "gateway")}
    assert Tokens(loaded.known, Clock(END_MS - 1)).expiries_s() == {"gateway": -3599.999}
    for now_ms, accepted in ((END_MS - 3_600_001, {one, two, three}), (END_MS - 1, {two, three}), (END_MS, set())):
        tokens = Tokens(loaded.known, Clock(now_ms))
        assert {token for token, known in known_by_token.items() if known is not None and tokens.accepts(known)} == accepted


@pytest.mark.parametrize("at", ["2030-01-31", "2030-01-31T12:00:00", "tomorrow", "2030-02-30T00:00:00Z", 1_896_091_200, True, ""])
def test_an_invalid_time_is_named(at: Any) -> None:
    for broken in (entry("x", expires_at=at), {**entry("x"), "sha256": [{"sha256": hash_token("x"), "expires_at": at}]}):
        with pytest.raises(ConfigError, match=r"tokens\.0\..*expires_at.*: .*must be an RFC 3339 time"):
            load_tokens(Settings(_env_file=None, ledger_tokens=text(broken)))


def test_no_end_may_be_written_as_null() -> None:
    (token,) = load_tokens(Settings(_env_file=None, ledger_tokens=text(entry("x", expires_at=None)))).known
    assert token.expires_at_ms is None


def test_the_end_of_a_token_is_logged_two_weeks_and_a_day_before_and_when_it_came_each_once(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "tokens.json", entry("x", expires_at=END), entry("y", "desk", "admin"))
    said = {}
    for before_ms in (15 * DAY_MS, 14 * DAY_MS, 10 * DAY_MS, DAY_MS, 1, 0, -DAY_MS):
        watched.clock.now_ms = END_MS - before_ms
        said[before_ms] = [line["event"] for line in watched.check(3)]
    soon, over = ["token expires soon"], ["token has expired"]
    assert said == {15 * DAY_MS: [], 14 * DAY_MS: soon, 10 * DAY_MS: [], DAY_MS: soon, 1: [], 0: over, -DAY_MS: []}


def test_a_warning_names_the_principal_and_no_secret(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "tokens.json", entry("x", expires_at=END))
    watched.clock.now_ms = END_MS - DAY_MS
    (line,) = watched.check()
    assert line == {
        "log_level": "warning",
        "event": "token expires soon",
        "principal": "gateway:web",
        "expires_at": "2030-01-31T12:00:00.000Z",
        "sha256_begins": hash_token("x")[:8],
    }


def test_tokens_of_the_variable_are_never_read_again_and_still_expire() -> None:
    clock = Clock()
    file = TokensFile(Settings(_env_file=None, ledger_tokens=text(entry("x", expires_at=END))), clock)
    file.check()
    clock.now_ms = END_MS
    with structlog.testing.capture_logs() as logs:
        file.check()
    assert [line["event"] for line in logs] == ["token has expired"]
    assert +file.tokens.reloads == {}
