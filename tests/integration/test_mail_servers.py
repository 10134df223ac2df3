"""Mail servers that answer oddly, slowly or never: each costs its own message, and no more time than that."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from commands.notifier.email_door import SmtpDoor
from commands.notifier.loop import GIVEN_UP
from commands.notifier.message_port import NotSent, OutMessage
from tests.support.patience import PATIENCE_S, until
from tests.support.post import MailServer, Post, running

MESSAGE = OutMessage("ord_1:1:email", "email", "ada@example.org", "Hello", "Hello")


@contextmanager
def listening(talk: Callable[[socket.socket], None]) -> Iterator[tuple[str, list[int]]]:
    """A server that talks so with each connection: its URL, and a growing list of its connections."""
    server = socket.create_server(("127.0.0.1", 0))
    accepted: list[int] = []

    def work() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            accepted.append(1)
            with connection:
                try:
                    talk(connection)
                except OSError:
                    continue

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield f"smtp://127.0.0.1:{server.getsockname()[1]}", accepted
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(PATIENCE_S)


def accepting(quit_answer: bytes) -> Callable[[socket.socket], None]:
    """Takes every mail, and answers QUIT like this."""

    def talk(connection: socket.socket) -> None:
        connection.sendall(b"220 here\r\n")
        lines = connection.makefile("rb")
        for line in lines:
            word = line.strip().upper()
            if word == b"DATA":
                connection.sendall(b"354 go on\r\n")
                while lines.readline().strip() != b".":
                    pass
                connection.sendall(b"250 accepted\r\n")
            elif word == b"QUIT":
                connection.sendall(quit_answer)
                return
            else:
                connection.sendall(b"250 fine\r\n")

    return talk


@pytest.mark.parametrize("answer", [b"421 busy\r\n", b"250 fine\r\n", b"554 no\r\n", b"nonsense\r\n", b""])
def test_a_mail_that_was_accepted_is_sent_whatever_the_server_says_to_quit(answer: bytes) -> None:
    with listening(accepting(answer)) as (url, connections):
        SmtpDoor(url, "shop@example.org").send(MESSAGE)
    assert len(connections) == 1


def drip(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"220-more\r\n")
        time.sleep(0.01)


def test_an_answer_that_drips_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commands.notifier.email_door.CALL_S", 0.3)
    with listening(drip) as (url, _), pytest.raises(NotSent, match="unreachable") as caught:
        SmtpDoor(url, "shop@example.org").send(MESSAGE)
    assert (caught.value.again, caught.value.is_reached) == (True, False)


def test_while_nobody_answers_one_message_after_the_other_is_not_tried(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commands.notifier.loop.FIRST_PAUSE_S", 10 * PATIENCE_S)
    monkeypatch.setattr("commands.notifier.loop.LONGEST_PAUSE_S", 10 * PATIENCE_S)
    with listening(lambda connection: None) as (url, connections):
        with running(post, doors={"email": SmtpDoor(url, "shop@example.org")}) as notifier:
            for number in range(20):
                post.placed(f"ord_{number}")
            until(lambda: notifier.parked == 20)
            assert len(connections) == 1
            monkeypatch.setattr("commands.notifier.loop.TRY_FOR_S", 0.0)
            until(lambda: notifier.parked == 0)
            assert notifier.with_fate(GIVEN_UP) == 20
        assert len(connections) == 1


def test_messages_of_a_slow_server_leave_time_for_everything_else(
    post: Post, mails: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An erased contact is not written to, although its event arrived before."""
    monkeypatch.setattr("commands.notifier.loop.TURN_S", 0.0)
    sent: list[str] = []

    class Slow(SmtpDoor):
        def send(self, message: OutMessage) -> None:
            if not sent:
                post.erase("ord_5")
            sent.append(message.key.partition(":")[0])

    with running(post):
        pass
    for number in range(10):
        post.placed(f"ord_{number}")
    with running(post, doors={"email": Slow(post.url, "shop@example.org")}):
        until(post.at_end)
    assert "ord_5" not in sent
    assert len(sent) == 9
