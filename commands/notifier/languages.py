"""Language tags (BCP 47), and the order in which languages are tried. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ledger.bounds import LANGUAGE_TAG, MAX_LANGUAGE_TAG

SHIPPED = "en"  # a language that has every message
_TAG = re.compile(LANGUAGE_TAG)


def canonical(tag: str) -> str | None:
    """The tag as RFC 5646 writes it: `de-AT`, `zh-Hant-TW`. None if it is malformed."""
    if len(tag) > MAX_LANGUAGE_TAG or not _TAG.fullmatch(tag):
        return None
    subtags = tag.lower().split("-")
    end = next((at for at, subtag in enumerate(subtags) if len(subtag) == 1), len(subtags))
    written = [subtags[0], *(_cased(subtag) for subtag in subtags[1:end]), *subtags[end:]]
    return "-".join(written)


def _cased(subtag: str) -> str:
    """A region in capitals, a script with one; anything else in small letters."""
    if len(subtag) == 2:
        return subtag.upper()
    return subtag.title() if len(subtag) == 4 and subtag.isalpha() else subtag


def lookups(tag: str) -> list[str]:
    """The tag, then the same language in less detail (RFC 4647, section 3.4): `de-AT`, `de`. Empty if it is malformed."""
    written = canonical(tag)
    if written is None:
        return []
    subtags, tags = written.split("-"), []
    while subtags:
        tags.append("-".join(subtags))
        subtags.pop()
        while subtags and len(subtags[-1]) == 1:
            subtags.pop()  # the sign of an extension alone says nothing
    return tags


def chain(wanted: Iterable[str | None]) -> list[str]:
    """All languages to try, best first: each wanted one with its less detailed forms, then the shipped one."""
    return list(dict.fromkeys(tag for one in (*wanted, SHIPPED) if one for tag in lookups(one)))
