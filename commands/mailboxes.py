"""E-mail addresses: one definition for requests and for messages. The only importer of `email_validator`."""

from __future__ import annotations

from functools import lru_cache

from email_validator import EmailNotValidError, validate_email


@lru_cache(1)  # a request's address is checked, and immediately afterwards its digest is built
def mailbox(text: str) -> str:
    """`text` in the form that every mail server accepts: ASCII, xn-- domain, the local part quoted if necessary.

    Quotes are for `"taro..yamada"@example.ne.jp`: carriers once issued such addresses, and people still use them.

    Raises `ValueError`, which does not repeat the text, for anything else: also for a display name, a domain without a dot, and
    a local part beyond ASCII, which many servers refuse.
    """
    try:
        return _checked(text)
    except EmailNotValidError:
        local, at, domain = text.rpartition("@")
        if not at or not _is_plain(local):
            raise ValueError("not an e-mail address") from None
    try:
        return _checked(f'"{local}"@{domain}')
    except EmailNotValidError:
        raise ValueError("not an e-mail address") from None


def _checked(text: str) -> str:
    parsed = validate_email(
        text,
        check_deliverability=False,
        strict=True,
        allow_smtputf8=False,
        allow_quoted_local=True,
        test_environment=True,  # `.test` is reserved for tests
    )
    assert parsed.ascii_email is not None  # without SMTPUTF8 it is always set
    return parsed.ascii_email


def _is_plain(local: str) -> bool:
    """Whether `local` is an unquoted local part, except for dots where the standard does not allow them."""
    return bool(local) and all(c.isascii() and (c.isalnum() or c in "!#$%&'*+/=?^_`{|}~.-") for c in local)
