"""Damage of a backup: each kind has its name, names the part, and repeats nothing of what was in it.

Two kinds. *Accidents* change, shorten or lose files. *Forgeries* are signed again, as by somebody who has LEDGER_HASH_KEY: then
the chain, the heads and the encryption show them.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from api.cli.archive import BrokenLog
from api.cli.backup.age import WrongKey, encrypt, new_pair, recipients_of
from api.cli.backup.manifest import (
    CONTACTS,
    LEDGER,
    LOCK,
    MANIFEST,
    BackupError,
    Increment,
    Manifest,
    locked,
    part_of,
    write_manifest,
)
from ledger.errors import ConfigError, LedgerError
from ledger.log import NewRecord
from ledger.partitioner import partition_for
from projections.verify import HeadsError
from tests.support.backed_up import EMAIL, HASH_KEY, IDENTITY, NAME, RECIPIENT, BackedUp, bytes_of, contacts_in
from tests.support.one_log import PARTITIONS, TOPICS
from tests.support.patience import PATIENCE_S

PARTS = ("ledger.avro", "contacts.age", "heads.json", "control.json", "settings.json", "tokens.json")
FLIPS = 300


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> BackedUp:
    """Two increments."""
    backed = BackedUp(tmp_path_factory.mktemp("whole") / "backup")
    for word in ("first", "second"):
        for order in backed.orders(word, 12):
            backed.contact(order)
        backed.backup()
    return backed


@pytest.fixture
def backed(whole: BackedUp, tmp_path: Path) -> BackedUp:
    """A copy of the folder, with the same ledger."""
    copy = BackedUp(tmp_path / "copy")
    shutil.copytree(whole.folder, copy.folder)
    copy.before, copy.clock_ms = whole.before, whole.clock_ms
    return copy


def refusal_of(backed: BackedUp) -> LedgerError:
    with pytest.raises(LedgerError) as error:
        backed.prove()
    assert NAME not in str(error.value)
    assert EMAIL not in str(error.value)
    return error.value


def change(path: Path, how: Callable[[bytes], bytes]) -> None:
    path.write_bytes(how(path.read_bytes()))


# ---- accidents ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("backup_missing_part", None),
        ("backup_truncated", lambda data: data[:-1]),
        ("backup_truncated", lambda data: b""),
        ("backup_damaged", lambda data: data + b"\n"),
        ("backup_damaged", lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]),
    ],
)
def test_a_part_that_is_lost_or_changed_is_named(
    backed: BackedUp, part: str, code: str, how: Callable[[bytes], bytes] | None
) -> None:
    path = backed.folder / "000001" / part
    if how is None:
        path.unlink()
    else:
        change(path, how)
    error = refusal_of(backed)
    assert (error.code, f"000001/{part}" in str(error)) == (code, True)


def test_every_flipped_byte_is_seen(backed: BackedUp) -> None:
    draw, files = random.Random(17), backed.files()
    names = sorted(set(files) - {LOCK})
    codes = set()
    for _ in range(FLIPS):
        name = draw.choice(names)
        place = draw.randrange(len(files[name]) - (name == MANIFEST))  # the line's end after the manifest means nothing
        damaged = bytearray(files[name])
        damaged[place] ^= 1 << draw.randrange(8)
        (backed.folder / name).write_bytes(damaged)
        codes.add(refusal_of(backed).code)
        (backed.folder / name).write_bytes(files[name])
    assert codes == {"backup_damaged", "backup_signature", "not_a_backup"}
    backed.prove()


def test_the_next_backup_sees_a_part_that_is_lost_or_shorter(backed: BackedUp) -> None:
    change(backed.folder / "000001" / LEDGER, lambda data: data[:-1])
    with pytest.raises(BackupError) as error:
        backed.backup()
    assert error.value.code == "backup_truncated"
    (backed.folder / "000001" / LEDGER).unlink()
    with pytest.raises(BackupError) as error:
        backed.backup()
    assert error.value.code == "backup_missing_part"


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"signature": "00", "manifest": 7}'])
def test_another_content_of_the_manifest_is_named(backed: BackedUp, content: bytes) -> None:
    (backed.folder / MANIFEST).write_bytes(content)
    assert refusal_of(backed).code in ("not_a_backup", "backup_signature")


def test_a_folder_without_a_manifest_is_not_a_backup(backed: BackedUp) -> None:
    (backed.folder / MANIFEST).unlink()
    assert refusal_of(backed).code == "not_a_backup"


# ---- keys -----------------------------------------------------------------------------------------------------------


def test_another_secret_key_is_named(backed: BackedUp) -> None:
    with pytest.raises(WrongKey) as error:
        backed.prove(identity=new_pair()[0])
    assert error.value.code == "backup_wrong_key"
    backed.prove(identity=f"{new_pair()[0]}, {IDENTITY}")  # one of them fits


def test_another_hash_key_is_named_by_both_verbs(backed: BackedUp) -> None:
    with pytest.raises(BackupError) as error:
        backed.prove(key="another key of the ledger")
    assert error.value.code == "backup_signature"
    with pytest.raises(BackupError) as error:
        backed.backup(key="another key of the ledger")
    assert error.value.code == "backup_signature"


@pytest.mark.parametrize(
    "text",
    ["", "age1nonsense", "AGE-SECRET-KEY-1NONSENSE", RECIPIENT],
    ids=["empty", "nonsense", "nonsense-secret", "a-public-key"],
)
def test_an_invalid_secret_key_is_not_repeated(backed: BackedUp, text: str) -> None:
    with pytest.raises(ConfigError, match="BACKUP_IDENTITY") as error:
        backed.prove(identity=text)
    assert not text or text not in str(error.value)


@pytest.mark.parametrize("text", ["", "age1nonsense", f"{RECIPIENT},x"], ids=["empty", "nonsense", "one-of-two"])
def test_an_invalid_public_key_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="BACKUP_RECIPIENTS"):
        recipients_of(text)


def test_two_backups_do_not_write_to_one_folder(backed: BackedUp) -> None:
    with locked(backed.folder), pytest.raises(BackupError) as error:
        backed.backup()
    assert error.value.code == "backup_running"


# ---- forgeries ------------------------------------------------------------------------------------------------------


def sign_again(backed: BackedUp, how: Callable[[Manifest], Manifest]) -> None:
    """The manifest with all sizes and checksums as the files are now, changed by `how`."""

    def as_it_is(increment: Increment) -> Increment:
        parts = {name: part_of(backed.folder, part.path) for name, part in increment.parts.items()}
        return replace(increment, parts=parts)

    manifest = backed.manifest()
    manifest = replace(manifest, increments=tuple(as_it_is(one) for one in manifest.increments))
    write_manifest(backed.folder, how(manifest), HASH_KEY.encode())


def test_a_changed_archive_is_seen_by_its_own_checksums(backed: BackedUp) -> None:
    change(backed.folder / "000001" / LEDGER, lambda data: data[:-40] + bytes([data[-40] ^ 1]) + data[-39:])
    sign_again(backed, lambda manifest: manifest)
    error = refusal_of(backed)
    assert (error.code, "000001/ledger.avro: the checksum of a block" in str(error)) == ("backup_damaged", True)


def test_an_increment_that_was_taken_out_is_seen_by_the_chain(backed: BackedUp) -> None:
    sign_again(backed, lambda manifest: replace(manifest, increments=manifest.increments[1:]))
    assert isinstance(refusal_of(backed), BrokenLog)


def test_a_last_increment_that_was_taken_out_is_seen_by_its_head(backed: BackedUp) -> None:
    sign_again(backed, lambda manifest: replace(manifest, increments=manifest.increments[:1]))
    assert isinstance(refusal_of(backed), BrokenLog)


def test_the_archive_of_another_ledger_is_seen(backed: BackedUp, tmp_path: Path) -> None:
    other = BackedUp(tmp_path / "other")
    other.orders("other", 12)
    other.backup()
    shutil.copy(other.folder / "000001" / LEDGER, backed.folder / "000001" / LEDGER)
    sign_again(backed, lambda manifest: manifest)
    assert isinstance(refusal_of(backed), BrokenLog)


def test_heads_that_were_changed_are_seen_by_their_signature(backed: BackedUp) -> None:
    change(backed.folder / "000002" / "heads.json", lambda data: data.replace(b'"offset": ', b'"offset": 1', 1))
    sign_again(backed, lambda manifest: manifest)
    assert isinstance(refusal_of(backed), HeadsError)


def test_contacts_that_end_too_early_are_seen_by_the_encryption(backed: BackedUp) -> None:
    change(backed.folder / "000001" / CONTACTS, lambda data: data[:-20])
    sign_again(backed, lambda manifest: manifest)
    error = refusal_of(backed)
    assert (error.code, "000001/contacts.age" in str(error)) == ("backup_damaged", True)


@pytest.mark.parametrize("lines", [b"Canary Nightingale", b'{"partition":99,"offset":0,"at":0,"key":"","value":null}\n', b"{}\n"])
def test_contacts_that_are_no_records_are_seen_and_not_quoted(backed: BackedUp, lines: bytes) -> None:
    with (backed.folder / "000001" / CONTACTS).open("wb") as file:
        encrypt(iter([lines]), file, recipients_of(RECIPIENT))
    sign_again(backed, lambda manifest: manifest)
    error = refusal_of(backed)
    assert (error.code, "000001/contacts.age" in str(error)) == ("backup_damaged", True)


# ---- the log itself -------------------------------------------------------------------------------------------------


def test_a_bad_record_of_the_log_is_backed_up_and_restored_only_on_request(tmp_path: Path) -> None:
    """It has frozen its own order for ever, and the backup of all others must not depend on it."""
    backed = BackedUp(tmp_path / "backup")
    bad, *_ = orders = backed.orders("first", 4)
    key = backed.contact(bad)
    junk = NewRecord(TOPICS.events, partition_for(bad.order_id.encode(), PARTITIONS), bad.order_id.encode(), b"junk")
    backed.before.sender.send(junk, lambda acked, error: None)
    assert backed.before.sender.flush(PATIENCE_S) == 0
    _, increment = backed.backup()
    assert increment is not None
    assert increment.faults == 1
    assert increment.first_fault.startswith(f"event {junk.partition}-")
    assert isinstance(refusal_of(backed), BrokenLog)
    proven, log = backed.restore(accept_faults=True)
    assert (proven.findings.fault_count, proven.findings.events) == (1, len(orders) + 3)
    assert bytes_of(log, TOPICS.events) == bytes_of(backed.before.log, TOPICS.events)
    assert set(contacts_in(log)) == {key}
