"""Ids of recently processed messages of the payment provider."""

from __future__ import annotations

MAX_ID = 255  # characters; a longer one is not remembered


class FollowedMessages:
    """The last `most` ids. A restart forgets them: a repeated message then causes one needless fetch."""

    def __init__(self, most: int = 10_000) -> None:
        self._ids: dict[str, None] = {}
        self._most = most

    def __contains__(self, message_id: object) -> bool:
        return message_id in self._ids

    def add(self, message_id: str) -> None:
        if len(message_id) <= MAX_ID:
            self._ids[message_id] = None
        if len(self._ids) > self._most:
            del self._ids[next(iter(self._ids))]
