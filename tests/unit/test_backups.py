"""Backups: what an increment adds, which log it refuses, what a restored ledger has. Contacts: `test_backed_up_contacts.py`."""

from __future__ import annotations

import base64
import errno
import json
import stat
import threading
from contextlib import closing
from pathlib import Path

import pyrage
import pytest

from api.cli.archive import NotEmpty
from api.cli.backup.manifest import CONTACTS, HEADS, LEDGER, LOCK, MANIFEST, BackupError
from api.cli.backup.surroundings import settings_of
from api.settings import Settings
from ledger.contact_rows import TOO_OLD_MS
from ledger.contacts import erased_key
from ledger.durations import DAY_MS
from ledger.errors import LogError
from ledger.kafka.settings import KafkaSettings
from ledger.log import NewRecord, TopicPartition
from ledger.memory.log import MemoryLog
from ledger.progress import Claim, record_of
from ledger.schemas.codec import contact_codec
from ledger.upgrades.control import Control
from ledger.upgrades.membership import ProgramTooOld
from ledger.upgrades.records import LEVEL_KEY, announcement, node_key, schema_record
from projections.verify import HeadsError, read_heads
from tests.support import later_schemas
from tests.support.backed_up import EMAIL, HASH_KEY, IDENTITY, NAME, BackedUp, bytes_of, contacts_in, records_in, settings
from tests.support.changed_logs import REFUSES, Change, last_events, mirrored, read_all, recreate_all, restored, write_again
from tests.support.one_log import PARTITIONS, TOPICS


@pytest.fixture
def backed(tmp_path: Path) -> BackedUp:
    return BackedUp(tmp_path / "backup")


def write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half")


# ---- increments -----------------------------------------------------------------------------------------------------


def test_a_restored_ledger_has_every_record_of_all_increments(backed: BackedUp) -> None:
    first = backed.orders("first")
    keys = [backed.contact(order) for order in first]
    backed.backup()
    keys += [backed.contact(order) for order in backed.orders("second")]
    backed.backup()
    proven, log = backed.restore()
    for topic in (TOPICS.events, TOPICS.refusals):
        assert bytes_of(log, topic) == bytes_of(backed.before.log, topic)
    assert contacts_in(log) == contacts_in(backed.before.log)
    assert (proven.findings.events, proven.refusals) == (len(backed.before.events()), len(backed.before.refusals()))
    assert (proven.fates["contacts"], len(keys)) == (16, 16)
    assert records_in(log, TOPICS.commands) == []


def test_an_increment_has_only_what_is_new(backed: BackedUp) -> None:
    backed.contact(backed.orders("first")[0])
    _, first = backed.backup()
    before = backed.files()
    backed.contact(backed.orders("second", 4)[0])
    _, second = backed.backup()
    assert first is not None
    assert second is not None
    assert (first.no, first.events, first.refusals, first.contacts, first.all_contacts) == (1, 12, 2, 1, True)
    assert (second.no, second.events, second.refusals, second.contacts, second.all_contacts) == (2, 6, 1, 1, False)
    after = backed.files()
    assert [name for name, content in before.items() if after[name] != content] == ["manifest.json"]
    assert after.keys() - before.keys() == {"000002/ledger.avro", "000002/contacts.age", "000002/heads.json"}
    assert backed.prove().findings.events == 18


def test_nothing_new_adds_nothing_and_a_changed_setting_is_new(backed: BackedUp) -> None:
    backed.contact(backed.orders("first", 4)[0])
    backed.backup()
    before = set(backed.files())
    backed.clock_ms += DAY_MS
    manifest, increment = backed.backup()
    assert (increment, set(backed.files())) == (None, before)
    assert manifest.as_of_ms == backed.clock_ms == backed.manifest().as_of_ms
    backed.surroundings["settings.json"] = b'{"settings":{"PARTITIONS":"4"}}'
    _, increment = backed.backup()
    assert increment is not None
    assert (increment.events, increment.contacts, LEDGER in increment.parts, CONTACTS in increment.parts) == (0, 0, False, False)
    assert backed.prove().findings.events == 6


def test_after_half_the_life_of_a_tombstone_all_contacts_are_read_again_and_the_old_ones_deleted(backed: BackedUp) -> None:
    kept, forgotten = (backed.contact(order) for order in backed.orders("first", 2))
    backed.backup()
    backed.write(forgotten, None)
    backed.before.ahead_ms = 2 * TOO_OLD_MS + DAY_MS
    backed.before.log.clean()  # the tombstone is gone
    backed.clock_ms += TOO_OLD_MS + 1
    _, increment = backed.backup()
    assert increment is not None
    assert increment.all_contacts
    assert "000001/contacts.age" not in backed.files()
    _, log = backed.restore()
    assert set(contacts_in(log)) == {kept}


def test_all_contacts_are_read_again_on_request(backed: BackedUp) -> None:
    order = backed.orders("first", 1)[0]
    key = backed.contact(order)
    backed.backup()
    backed.mark_erased(key)
    _, increment = backed.backup(all_contacts=True)
    assert increment is not None
    assert increment.all_contacts
    assert [name for name in backed.files() if name.endswith(".age")] == ["000002/contacts.age"]
    assert set(contacts_in(backed.restore()[1])) == {erased_key(key)}


def test_what_a_killed_backup_left_is_deleted_by_the_next_one(backed: BackedUp) -> None:
    backed.contact(backed.orders("first", 4)[0])
    for left in (LOCK, "draft/ledger.avro"):
        write(backed.folder / left)
    backed.backup()
    for left in ("draft/ledger.avro", "000002/ledger.avro"):
        write(backed.folder / left)
    backed.orders("second", 4)
    backed.backup()
    assert not (backed.folder / "draft").exists()
    assert backed.prove().findings.events == 12


@pytest.mark.parametrize("left", ["000001/ledger.avro", "202501/a.jpg", "draft/novel.txt"])
def test_a_folder_without_a_manifest_is_not_written_to(backed: BackedUp, left: str) -> None:
    """Whatever it is: the leftover of a first backup that was killed, or of one whose manifest is lost, or somebody else's."""
    write(backed.folder / left)
    with pytest.raises(BackupError) as error:
        backed.backup()
    assert (error.value.code, set(backed.files())) == ("not_a_backup", {left})


def test_a_backup_whose_manifest_is_lost_is_not_deleted(backed: BackedUp) -> None:
    for word in ("first", "second"):
        backed.contact(backed.orders(word, 4)[0])
        backed.backup()
    (backed.folder / MANIFEST).unlink()
    before = backed.files()
    with pytest.raises(BackupError, match="increments and no manifest") as error:
        backed.backup()
    assert error.value.code == "not_a_backup"
    after = backed.files()
    assert {name: after.get(name) for name in before if name != LOCK} == {k: v for k, v in before.items() if k != LOCK}


def test_a_first_backup_that_fails_at_its_end_is_repeated(backed: BackedUp, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_file = Path.replace

    def on_full_disk(source: Path, target: Path) -> Path:
        if target.name == MANIFEST:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace_file(source, target)

    backed.orders("first", 4)
    with monkeypatch.context() as full:
        full.setattr(Path, "replace", on_full_disk)
        with pytest.raises(OSError, match="No space"):
            backed.backup()
    backed.backup()
    assert backed.prove().findings.events == 6


def test_a_folder_with_other_files_is_not_written_to(backed: BackedUp) -> None:
    backed.folder.mkdir()
    backed.folder.chmod(0o755)
    (backed.folder / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(BackupError) as error:
        backed.backup()
    assert error.value.code == "not_a_backup"
    assert set(backed.files()) == {"holiday.jpg"}
    assert stat.S_IMODE(backed.folder.stat().st_mode) == 0o755


# ---- another log ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [restored, *REFUSES])
def test_another_log_is_refused_and_the_backup_stays_as_it_was(
    backed: BackedUp, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.log_identity.AHEAD_S", 0.3)
    backed.orders("k", 24)
    backed.backup()
    before = backed.files()
    change(backed.before)
    with pytest.raises(BackupError) as error:
        backed.backup()
    assert (error.value.code, "another folder" in str(error.value)) == ("other_ledger", True)
    assert backed.files() == before


def test_a_log_restored_with_one_marker_less_is_refused_as_well(backed: BackedUp) -> None:
    """Its last events are still before the positions of the backup, one offset earlier than the signed heads say."""
    backed.orders("k", 2)  # the second transaction cancels one
    backed.backup()
    records, before = read_all(backed.before), last_events(backed.before)
    recreate_all(backed.before.log)
    write_again(backed.before.log, records)
    assert last_events(backed.before) != before
    with pytest.raises(BackupError, match="was restored since"):
        backed.backup()


@pytest.mark.parametrize("all_contacts", [False, True])
@pytest.mark.parametrize("is_recreated", [False, True])
def test_a_topic_of_contacts_that_lost_its_records_deletes_none_of_the_backup(
    backed: BackedUp, is_recreated: bool, all_contacts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.log_identity.AHEAD_S", 0.3)
    orders = backed.orders("first", 4)
    for order in orders:
        backed.contact(order)
    backed.backup()
    before = backed.files()
    if is_recreated:
        backed.before.log.recreate(TOPICS.contacts)
        backed.contact(orders[0])
    else:
        for p in range(PARTITIONS):
            backed.before.log.lose_end(TopicPartition(TOPICS.contacts, p), 0)
    with pytest.raises(BackupError, match="another folder") as error:
        backed.backup(all_contacts)
    assert (error.value.code, backed.files()) == ("other_ledger", before)


def test_a_mirror_is_backed_up_into_the_same_folder(backed: BackedUp) -> None:
    backed.contact(backed.orders("first", 4)[0])
    backed.backup()
    mirrored(backed.before)
    backed.orders("second", 4)
    _, increment = backed.backup()
    assert increment is not None
    assert (increment.events, increment.all_contacts) == (6, True)
    assert backed.prove().findings.events == 12


# ---- what else is in it ---------------------------------------------------------------------------------------------


def test_nothing_personal_is_readable_and_only_the_owner_reads_anything(backed: BackedUp) -> None:
    for order in backed.orders("first"):
        backed.contact(order)
    backed.backup()
    files = backed.files()
    assert files["000001/contacts.age"].startswith(b"age-encryption.org/v1\n-> X25519 ")
    for name, content in files.items():
        assert NAME.encode() not in content, name
        assert EMAIL.encode() not in content, name
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (backed.folder, *backed.folder.rglob("*"))}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}


def test_age_alone_reads_the_contacts(backed: BackedUp) -> None:
    order = backed.orders("first", 1)[0]
    key = backed.contact(order)
    backed.backup()
    content = pyrage.decrypt(backed.files()["000001/contacts.age"], [pyrage.x25519.Identity.from_str(IDENTITY)])
    (line,) = content.decode().splitlines()
    row = json.loads(line)
    assert (base64.b64decode(row["key"]), row["offset"], row["at"]) == (key, 0, backed.clock_ms)
    assert contact_codec().decode(base64.b64decode(row["value"])).name == NAME


def test_signed_heads_are_those_of_verify(backed: BackedUp) -> None:
    backed.orders("first")
    backed.backup()
    content = json.loads(backed.files()[f"000001/{HEADS}"])
    heads, topic_id = read_heads(content, HASH_KEY.encode())
    assert (heads, topic_id) == (backed.prove().findings.heads, backed.before.log.topic_id(TOPICS.events))
    with pytest.raises(HeadsError):
        read_heads(content, b"another key of the ledger")
    backed.prove(heads=heads)


def test_heads_kept_elsewhere_show_that_a_backup_is_older_than_them(backed: BackedUp) -> None:
    backed.orders("first")
    backed.backup()
    old = backed.files()
    backed.orders("second")
    backed.backup()
    newer = backed.prove().findings.heads
    for name, content in old.items():  # somebody has put the old backup back
        (backed.folder / name).write_bytes(content)
    assert backed.prove().findings.events == 12
    with pytest.raises(Exception, match="a head kept elsewhere has"):
        backed.prove(heads=newer)


def write_control(backed: BackedUp, *records: tuple[bytes, bytes]) -> None:
    with closing(Control(backed.before.log, TOPICS)) as control:
        control.write(records)


def test_the_level_and_later_schemas_are_restored_before_the_ledger_and_nodes_and_claims_are_not(
    backed: BackedUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = later_schemas.event_versions()[1]
    claim = record_of(TOPICS, Claim(0, "00", 7, 7, "one"))
    level, schema = (LEVEL_KEY, announcement(2, "0.3.0")), schema_record(later)
    backed.orders("first", 2)
    write_control(
        backed, level, schema, (node_key("serve", "one"), announcement(2, "0.3.0")), (claim.key or b"", claim.value or b"")
    )
    backed.backup()
    monkeypatch.setattr("api.cli.backup.proving.LEVEL", 2)
    with later_schemas.nothing_learned():
        proven, log = backed.restore()
    assert (proven.control.level, proven.control.raised_by) == (2, "0.3.0")
    assert [(record.key, record.value) for record in records_in(log, TOPICS.control)] == [schema, level]


def test_a_backup_of_a_later_level_is_refused_by_this_program(backed: BackedUp) -> None:
    backed.orders("first", 1)
    write_control(backed, (LEVEL_KEY, announcement(99, "9.9.0")))
    backed.backup()
    with pytest.raises(ProgramTooOld, match=r"version 9\.9\.0 or later"):
        backed.prove()


def test_settings_have_no_secret_and_name_those_that_were_set() -> None:
    some = settings(
        backup_identity="AGE-SECRET-KEY-1SECRET",
        notify_email_url="smtp://user:password@mail",
        product_service_url="https://stock:password@product",
        merch_service_url="https://merch.internal",
    )
    text = settings_of(some, KafkaSettings(_env_file=None, sasl_password="password")).decode()  # type: ignore[call-arg, arg-type]
    content = json.loads(text)
    assert "SECRET" not in text.replace("SECRET_KEY", "").replace("SECRETS", "")
    assert "password@" not in text
    assert HASH_KEY not in text
    assert content["secrets"] == [
        "BACKUP_IDENTITY",
        "KAFKA_SASL_PASSWORD",
        "LEDGER_HASH_KEY",
        "NOTIFY_EMAIL_URL",
        "PRODUCT_SERVICE_URL",
    ]
    assert content["settings"]["MERCH_SERVICE_URL"] == "https://merch.internal"
    assert content["settings"]["PARTITIONS"] == "4"
    assert set(content["settings"]) | set(content["secrets"]) >= {"KAFKA_BOOTSTRAP_SERVERS", "CURRENCIES"}
    assert set(content["settings"]) <= {f.upper() for f in Settings.model_fields} | {
        f"KAFKA_{f}".upper() for f in KafkaSettings.model_fields
    }


# ---- the target -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", [TOPICS.events, TOPICS.refusals, TOPICS.commands, TOPICS.contacts])
def test_a_ledger_with_records_is_not_written_to(backed: BackedUp, topic: str) -> None:
    backed.orders("first", 1)
    backed.backup()
    log = MemoryLog()
    log.ensure_topics(TOPICS.specs(PARTITIONS, 2))
    sender = log.sender("somebody")
    sender.send(NewRecord(topic, 1, b"key", b"value"), lambda acked, error: None)
    sender.close()
    with pytest.raises(NotEmpty, match=f"{topic}/1"):
        backed.restore(log)
    assert [len(records_in(log, name)) for name in (TOPICS.events, TOPICS.control)] == [int(topic == TOPICS.events), 0]


def test_a_restore_that_was_stopped_halfway_says_so(backed: BackedUp) -> None:
    backed.orders("first", 1)
    backed.backup()
    with pytest.raises(LogError, match="stopped halfway: delete the topics"):
        backed.restore(stopping=threading.Event())


def test_a_restore_that_failed_halfway_is_not_continued(backed: BackedUp) -> None:
    backed.contact(backed.orders("first", 1)[0])
    backed.backup()
    log = MemoryLog()
    log.fail_next_commit("after")
    with pytest.raises(LogError):
        backed.restore(log)
    assert records_in(log, TOPICS.events)
    with pytest.raises(NotEmpty):
        backed.restore(log)
