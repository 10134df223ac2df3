"""What an e-mail address is: one idea for the door and for what is sent. The only importer of `email_validator`."""

from __future__ import annotations

from email_validator import EmailNotValidError, validate_email


def mailbox(text: str) -> str:
    """`text` in the form that every mail server takes: ASCII, the domain in its xn-- form, the local part in quotes where needed.

    Quotes are for `"taro..yamada"@example.ne.jp`: carriers once gave out such addresses, and people still have them.

    Raises `ValueError`, which does not repeat the text, for what is none: also for an address with a display name, for a domain
    without a dot, and for a local part beyond ASCII, which many servers do not take.
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
    found = validate_email(
        text,
        check_deliverability=False,
        strict=True,
        allow_smtputf8=False,
        allow_quoted_local=True,
        test_environment=True,  # `.test` is a name for tests, and nobody else's
    )
    assert found.ascii_email is not None  # without SMTPUTF8 there always is one
    return found.ascii_email


def _is_plain(local: str) -> bool:
    """Letters, digits and single signs of an unquoted local part, but dots where no standard allows them."""
    return bool(local) and all(c.isascii() and (c.isalnum() or c in "!#$%&'*+/=?^_`{|}~.-") for c in local)
