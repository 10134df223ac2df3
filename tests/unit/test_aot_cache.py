"""Java's ahead-of-time cache as a file: its name, when it is created, which of two trainings gives way."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from ledger.broker import aot_cache, aot_training
from ledger.broker.jars import ensure_jars
from ledger.broker.java import java_path
from tests.support.patience import PATIENCE_S

REFUSED = """\
[0.004s][warning][aot] The AOT cache has been truncated.
[0.004s][error  ][aot] An error has occurred while processing the AOT cache. Run with -Xlog:aot for details.
[0.004s][error  ][aot] Unable to map shared spaces
"""
TAKEN = "[0.062s][warning][aot                ] Failed to link AdapterHandlerEntry (fp=LL) to its code in the AOT code cache\n"


def test_the_first_line_of_a_refusal_is_the_reason() -> None:
    assert aot_cache.refusal(REFUSED) == "The AOT cache has been truncated."
    assert aot_cache.refusal(TAKEN) is None
    assert aot_cache.refusal("") is None


def test_the_name_depends_on_java_and_on_the_jars(tmp_path: Path) -> None:
    names = set()
    for release, size, jar in (("25.0.2", 9, "a-1"), ("25.0.3", 9, "a-1"), ("25.0.2", 10, "a-1"), ("25.0.2", 9, "a-2")):
        home = tmp_path / f"java-{len(names)}"
        (home / "lib").mkdir(parents=True)
        (home / "release").write_text(release)
        (home / "lib" / "modules").write_bytes(bytes(size))
        names.add(aot_cache.cache_file(home / "bin" / "java", [tmp_path / f"{jar}.jar"]))
    assert len(names) == 4
    assert {name.parent for name in names} == {tmp_path}


def test_few_caches_of_other_versions_are_kept(tmp_path: Path) -> None:
    files = [tmp_path / f"broker-{n}.aot" for n in range(5)]
    for age, file in enumerate(files):
        file.touch()
        os.utime(file, (1000 + age, 1000 + age))
    aot_cache.remove_older(files[0])
    assert sorted(tmp_path.iterdir()) == [files[0], files[3], files[4]]


def test_nothing_is_trained_too_early_nor_where_a_cache_exists_or_cannot(tmp_path: Path) -> None:
    before = psutil.Process().children()
    there = tmp_path / "broker-0.aot"
    assert aot_cache.is_missing(there)
    early = aot_cache.Training(there, tmp_path / "log", calm_s=3600)
    early.tend()
    there.touch()
    late = aot_cache.Training(there, tmp_path / "log", calm_s=0)
    late.tend()
    nowhere = aot_cache.Training(tmp_path / "none" / "broker-0.aot", tmp_path / "log", calm_s=0)
    nowhere.tend()
    assert psutil.Process().children() == before
    for training in (early, late, nowhere):
        training.stop()


@pytest.mark.kafka
def test_a_training_that_is_stopped_leaves_nothing_behind_and_a_second_one_gives_way(tmp_path: Path) -> None:
    for file in (ensure_jars()[0].parent).iterdir():
        if file.suffix == ".jar":
            (tmp_path / file.name).symlink_to(file)
    jars = ensure_jars(tmp_path)
    target = aot_cache.cache_file(java_path(), jars)
    with FileLock(tmp_path / ".aot.lock"):
        assert aot_training.make(tmp_path) is None  # another process is training
    before = set(psutil.process_iter())
    training = aot_cache.Training(target, tmp_path / "training.log", calm_s=0)
    training.tend()
    deadline = time.monotonic() + PATIENCE_S
    while not any(str(tmp_path) in word for process in new_processes(before) for word in command(process) if "kafka" in word):
        assert time.monotonic() < deadline, (tmp_path / "training.log").read_text()
        time.sleep(0.05)
    training.stop()
    assert [command(process) for process in new_processes(before) if str(tmp_path) in " ".join(command(process))] == []
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("training-")] == []
    assert not target.exists()


def new_processes(before: set[psutil.Process]) -> set[psutil.Process]:
    return set(psutil.process_iter()) - before


def command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []
