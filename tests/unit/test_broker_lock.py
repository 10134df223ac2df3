"""The jars of the embedded broker: the lock file, and a cache that is filled from a Maven repository over real HTTP."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import pwd
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from ledger.broker.jars import LOCK_FILE, Jar, JarCheck, JarLock, StartProgress, cache_root, ensure_jars, write_jar_lock
from ledger.broker.node import EmbeddedBroker
from ledger.errors import BrokerError
from ledger.schemas.data_files import data_file
from tests.support.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]


@dataclass
class Repository:
    """A Maven repository on loopback with these `files`. `cut` names a file of which it sends half, and how many times."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    cut: dict[str, int] = field(default_factory=dict)

    def publish(self, coordinate: str, content: bytes) -> Jar:
        group, artifact, version = coordinate.split(":")
        path = f"/{group.replace('.', '/')}/{artifact}/{version}/{artifact}-{version}.jar"
        self.files[path] = content
        self.files[path + ".sha1"] = hashlib.sha1(content).hexdigest().encode()
        return Jar(coordinate, hashlib.sha256(content).hexdigest(), len(content))

    def jar_requests(self) -> list[str]:
        return [path for path in self.requests if path.endswith(".jar")]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    """A running repository that jgo uses in place of Maven Central, through its own configuration file."""
    repo = Repository()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            repo.requests.append(self.path)
            content = repo.files.get(self.path)
            self.send_response(200 if content is not None else 404)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if content and repo.cut.get(self.path, 0) > 0:
                repo.cut[self.path] -= 1
                content = content[: len(content) // 2]
            self.wfile.write(content or b"")

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    repo.url = f"http://127.0.0.1:{server.server_port}"
    use_repository(repo.url, tmp_path, monkeypatch)
    yield repo
    server.shutdown()
    thread.join()
    server.server_close()


def use_repository(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "jgo.conf"
    config.write_text(f"[repositories]\ncentral = {url}\n", "utf-8")
    monkeypatch.setenv("JGO_CONFIG_FILE", str(config))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def lock(repository: Repository) -> JarLock:
    """A lock of twelve jars that `repository` has."""
    jars = tuple(repository.publish(f"org.example:part-{n}:1.{n}", os.urandom(20_000 + n)) for n in range(12))
    return JarLock("1.0", ("org.example:part-0:1.0",), jars)


def test_the_shipped_lock_names_the_45_jars_of_kafka_with_their_hashes() -> None:
    shipped = JarLock.read()
    assert len(shipped.jars) == 45
    assert list(shipped.jars) == sorted(shipped.jars, key=lambda jar: jar.coordinate)
    names = {jar.coordinate for jar in shipped.jars}
    assert set(shipped.roots) <= names
    assert f"org.apache.kafka:kafka-clients:{shipped.kafka_version}" in names
    assert all(re.fullmatch(r"[0-9a-f]{64}", jar.sha256) and jar.size_bytes > 1000 for jar in shipped.jars)


def test_writing_the_shipped_lock_again_changes_no_byte(tmp_path: Path) -> None:
    JarLock.read().write(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == data_file(LOCK_FILE).read_bytes()


def test_a_malformed_lock_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    path.write_text(json.dumps({"kafka_version": "1", "roots": [], "jars": [{"coordinate": "a:b:1"}]}))
    with pytest.raises(ValueError, match=r"lock\.json is not a lock file"):
        JarLock.read(path)


def test_two_jars_may_not_share_a_file_name(tmp_path: Path) -> None:
    JarLock("1", (), (Jar("a:same:1", "0" * 64, 1), Jar("b:same:1", "0" * 64, 1))).write(tmp_path / "lock.json")
    with pytest.raises(ValueError, match="same file name"):
        JarLock.read(tmp_path / "lock.json")


def test_an_empty_cache_is_filled_and_the_next_call_asks_nobody(repository: Repository, lock: JarLock, tmp_path: Path) -> None:
    steps: list[StartProgress] = []
    paths = ensure_jars(tmp_path / "cache", steps.append, lock=lock)
    assert [path.read_bytes() for path in paths] == [repository.files[path] for path in sorted_paths(repository, lock)]
    assert {step.phase for step in steps} == {"download"}
    assert steps[-1] == StartProgress("download", sum(jar.size_bytes for jar in lock.jars), steps[-1].total, "bytes")
    assert steps[-1].done == steps[-1].total
    assert [step.done for step in steps] == sorted(step.done for step in steps)

    repository.requests.clear()
    steps.clear()
    assert ensure_jars(tmp_path / "cache", steps.append, lock=lock) == paths
    assert (repository.requests, steps) == ([], [StartProgress("verify", n, 12, "jars") for n in range(1, 13)])
    assert not list((tmp_path / "cache").glob("incoming-*"))


def sorted_paths(repository: Repository, lock: JarLock) -> list[str]:
    """The repository's paths in the order of the lock."""
    by_name = {path.rpartition("/")[2]: path for path in repository.files if path.endswith(".jar")}
    return [by_name[jar.file_name] for jar in lock.jars]


def test_a_jar_with_another_hash_stops_everything_and_is_not_kept(repository: Repository, lock: JarLock, tmp_path: Path) -> None:
    forged = lock.jars[5]
    repository.publish(forged.coordinate, b"something else")
    with pytest.raises(BrokerError, match=rf"{re.escape(forged.coordinate)} has SHA-256") as caught:
        ensure_jars(tmp_path / "cache", lock=lock)
    assert caught.value.code == "bad_hash"
    kept = {path.name for path in (tmp_path / "cache").rglob("*.jar")}
    assert forged.file_name not in kept
    assert kept <= {jar.file_name for jar in lock.jars}


def test_a_cached_jar_that_was_altered_is_fetched_again(repository: Repository, lock: JarLock, tmp_path: Path) -> None:
    paths = ensure_jars(tmp_path / "cache", lock=lock)
    good = paths[3].read_bytes()
    paths[3].write_bytes(good[:-1])
    repository.requests.clear()
    steps: list[StartProgress] = []
    ensure_jars(tmp_path / "cache", steps.append, lock=lock)
    assert paths[3].read_bytes() == good
    assert len(repository.jar_requests()) == 1
    assert steps[0] == StartProgress("verify", 1, 12, "jars")


def flip_a_byte(path: Path) -> None:
    """Keeps size and times."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_flipped_byte_is_named_in_one_line_and_repaired_by_fetching_that_jar(
    repository: Repository, lock: JarLock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = ensure_jars(tmp_path / "cache", lock=lock)[7]
    good = path.read_bytes()
    flip_a_byte(path)
    repository.requests.clear()
    ensure_jars(tmp_path / "cache", lock=lock)
    assert path.read_bytes() == good
    assert repository.jar_requests() == [sorted_paths(repository, lock)[7]]
    (line,) = [record.getMessage() for record in caplog.records if record.name == "ledger.broker.jars"]
    assert line.startswith(f"{path} is damaged (its SHA-256 is ")
    assert "\n" not in line


# several downloads fail together: see `test_without_a_network_the_error_says_what_to_do`
@pytest.mark.filterwarnings("ignore:unclosed <socket.socket \\[closed\\]:ResourceWarning")
def test_without_a_network_damaged_jars_are_refused_by_name_each_time(
    repository: Repository, lock: JarLock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = ensure_jars(tmp_path / "cache", lock=lock)
    for path in (paths[2], paths[9]):
        flip_a_byte(path)
    use_repository("http://127.0.0.1:1", tmp_path, monkeypatch)
    for _ in range(2):
        with pytest.raises(
            BrokerError, match=rf"^{paths[2].name}, {paths[9].name} in .* are damaged .* ORDER_LEDGER_CACHE"
        ) as caught:
            ensure_jars(tmp_path / "cache", lock=lock)
        assert caught.value.code == "bad_hash"
    use_repository(repository.url, tmp_path, monkeypatch)
    ensure_jars(tmp_path / "cache", lock=lock)


def test_a_jar_that_a_check_has_hashed_is_not_hashed_again_unless_it_changed(
    repository: Repository, lock: JarLock, tmp_path: Path
) -> None:
    paths = ensure_jars(tmp_path / "cache", lock=lock)
    steps: list[StartProgress] = []
    ensure_jars(tmp_path / "cache", steps.append, lock=lock, check=JarCheck(tmp_path / "cache", lock))
    assert steps == []

    check = JarCheck(tmp_path / "cache", lock)
    check.right()
    other = tmp_path / "other"
    other.write_bytes(bytes(paths[4].stat().st_size))
    os.utime(other, ns=(0, paths[4].stat().st_mtime_ns))
    other.replace(paths[4])
    paths[5].unlink()
    ensure_jars(tmp_path / "cache", steps.append, lock=lock, check=check)
    assert [step for step in steps if step.phase == "verify"] == [StartProgress("verify", 1, 2, "jars")]
    assert [path.read_bytes() for path in paths] == [repository.files[path] for path in sorted_paths(repository, lock)]


def test_a_check_of_a_cache_that_cannot_be_read_knows_nothing(lock: JarLock, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert JarCheck(tmp_path / "file", lock).right() == {}


def test_a_new_hash_in_the_lock_is_not_satisfied_by_the_old_jar(repository: Repository, lock: JarLock, tmp_path: Path) -> None:
    ensure_jars(tmp_path / "cache", lock=lock)
    changed = repository.publish(lock.jars[0].coordinate, b"a new build")
    paths = ensure_jars(tmp_path / "cache", lock=replace(lock, jars=(changed, *lock.jars[1:])))
    assert paths[0].read_bytes() == b"a new build"


def test_a_cache_copied_from_elsewhere_is_hashed_and_not_fetched(repository: Repository, lock: JarLock, tmp_path: Path) -> None:
    for path in ensure_jars(tmp_path / "cache", lock=lock):
        os.utime(path, (1, 1))
    repository.requests.clear()
    steps: list[StartProgress] = []
    ensure_jars(tmp_path / "cache", steps.append, lock=lock)
    assert repository.requests == []
    assert [step.done for step in steps if step.phase == "verify"] == list(range(1, 13))


def test_a_connection_lost_in_the_middle_of_a_jar_is_tried_again(repository: Repository, lock: JarLock, tmp_path: Path) -> None:
    first, *_, last = sorted_paths(repository, lock)
    repository.cut[last] = 1
    paths = ensure_jars(tmp_path / "cache", jobs=1, lock=lock)
    assert paths[-1].read_bytes() == repository.files[last]
    assert repository.requests.count(last) == 2
    assert repository.requests.count(first) == 1


# jgo asks with `stream=True`, and neither reads nor closes an answer that is not 200
@pytest.mark.filterwarnings("ignore:unclosed <socket.socket \\[closed\\]:ResourceWarning")
def test_jars_that_arrived_are_not_fetched_again_after_a_failure(repository: Repository, lock: JarLock, tmp_path: Path) -> None:
    last = sorted_paths(repository, lock)[-1]
    content = repository.files.pop(last)
    with pytest.raises(BrokerError, match="is it missing in a mirror") as caught:
        ensure_jars(tmp_path / "cache", jobs=1, lock=lock)
    assert caught.value.code == "download_failed"
    repository.files[last] = content
    repository.requests.clear()
    ensure_jars(tmp_path / "cache", jobs=1, lock=lock)
    assert repository.jar_requests() == [last]


# two downloads fail together, and urllib3 may see a socket that is being collected and closed at the same moment
@pytest.mark.filterwarnings("ignore:unclosed <socket.socket \\[closed\\]:ResourceWarning")
def test_without_a_network_the_error_says_what_to_do(lock: JarLock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_repository("http://127.0.0.1:1", tmp_path, monkeypatch)
    with pytest.raises(BrokerError, match="ORDER_LEDGER_CACHE") as caught:
        ensure_jars(tmp_path / "cache", lock=lock)
    assert caught.value.code == "no_network"
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.name != ".lock"] == []


def test_two_processes_that_fill_one_cache_fetch_each_jar_once(repository: Repository, lock: JarLock, tmp_path: Path) -> None:
    lock.write(tmp_path / "lock.json")
    program = (
        "import sys; from pathlib import Path; from ledger.broker.jars import JarLock, ensure_jars\n"
        "print(len(ensure_jars(Path(sys.argv[1]), lock=JarLock.read(Path(sys.argv[2])))))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "cache"), str(tmp_path / "lock.json")]
    fillers = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(3)]
    assert [filler.communicate(timeout=PATIENCE_S)[0].strip() for filler in fillers] == [b"12"] * 3
    assert sorted(repository.jar_requests()) == sorted(sorted_paths(repository, lock))


def test_leftovers_of_a_killed_download_are_deleted(repository: Repository, lock: JarLock, tmp_path: Path) -> None:
    abandoned = tmp_path / "cache" / "incoming-abandoned"
    abandoned.mkdir(parents=True)
    (abandoned / "half.jar").write_bytes(b"half")
    ensure_jars(tmp_path / "cache", lock=lock)
    assert not abandoned.exists()


def test_a_cache_that_is_not_a_directory_is_named(lock: JarLock, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BrokerError, match=re.escape(str(tmp_path / "file"))) as caught:
        ensure_jars(tmp_path / "file" / "cache", lock=lock)
    assert caught.value.code == "directory_unusable"


def test_jars_that_cannot_fit_on_the_disk_are_not_downloaded(repository: Repository, lock: JarLock, tmp_path: Path) -> None:
    huge = replace(lock, jars=tuple(replace(jar, size_bytes=2**50) for jar in lock.jars))
    with pytest.raises(BrokerError, match="MB free") as caught:
        ensure_jars(tmp_path / "cache", lock=huge)
    assert caught.value.code == "no_disk_space"
    assert repository.requests == []


def test_the_lock_is_built_from_what_the_repository_declares(repository: Repository, tmp_path: Path) -> None:
    kafka, simple, shared = "org.apache.kafka:kafka_2.13:9.9", "org.slf4j:slf4j-simple:1.7.36", "org.example:shared:2.0"
    expected = [repository.publish(coordinate, os.urandom(3000)) for coordinate in (shared, kafka, simple)]
    needs_shared = "<dependency><groupId>org.example</groupId><artifactId>shared</artifactId><version>2.0</version></dependency>"
    needs_test = needs_shared.replace("shared", "only-in-tests").replace("</version>", "</version><scope>test</scope>")
    publish_pom(repository, kafka, needs_shared + needs_test)
    publish_pom(repository, simple, "")
    publish_pom(repository, shared, "")
    written = write_jar_lock("9.9", tmp_path / "lock.json")
    assert list(written.jars) == sorted(expected, key=lambda jar: jar.coordinate)
    assert JarLock.read(tmp_path / "lock.json") == written


def test_a_jar_that_is_not_what_its_repository_publishes_makes_no_lock(repository: Repository, tmp_path: Path) -> None:
    for coordinate in ("org.apache.kafka:kafka_2.13:9.9", "org.slf4j:slf4j-simple:1.7.36"):
        repository.publish(coordinate, coordinate.encode())
        publish_pom(repository, coordinate, "")
    altered = next(path for path in repository.files if path.endswith("kafka_2.13-9.9.jar"))
    repository.files[altered] = b"altered"
    with pytest.raises(ValueError, match=r"kafka_2\.13:9\.9 does not have the SHA-1"):
        write_jar_lock("9.9", tmp_path / "lock.json")
    assert not (tmp_path / "lock.json").exists()


def publish_pom(repository: Repository, coordinate: str, dependencies: str) -> None:
    group, artifact, version = coordinate.split(":")
    path = f"/{group.replace('.', '/')}/{artifact}/{version}/{artifact}-{version}.pom"
    repository.files[path] = (
        "<project><modelVersion>4.0.0</modelVersion>"
        f"<groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version>"
        f"<dependencies>{dependencies}</dependencies></project>"
    ).encode()


def test_the_cache_can_be_put_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ORDER_LEDGER_CACHE", str(tmp_path / "elsewhere"))
    assert cache_root() == tmp_path / "elsewhere"
    monkeypatch.delenv("ORDER_LEDGER_CACHE")
    assert cache_root().name == "order-ledger"
    assert cache_root().is_absolute()


def test_a_user_without_a_home_directory_learns_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_entry(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("ORDER_LEDGER_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    with pytest.raises(BrokerError, match="set ORDER_LEDGER_CACHE") as caught:
        cache_root()
    assert caught.value.code == "directory_unusable"
    monkeypatch.setenv("ORDER_LEDGER_CACHE", str(tmp_path))
    assert cache_root() == tmp_path


def test_properties_that_the_broker_sets_itself_cannot_be_set(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"these properties cannot be set: log\.dirs"):
        EmbeddedBroker(tmp_path, properties={"log.dirs": "/elsewhere"})


def test_a_broker_that_was_never_started_has_no_address_and_can_be_stopped(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path / "data")
    for ask in (lambda: broker.bootstrap_servers, lambda: broker.pid, broker.poll, broker.wait):
        with pytest.raises(BrokerError) as caught:
            ask()
        assert caught.value.code == "not_running"
    broker.stop()
    assert not (tmp_path / "data").exists()
