"""A saved formatted directory is copied for a new broker with ids of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ledger.broker import formatting

META = "#\n#today\ncluster.id={}\ndirectory.id={}\nnode.id=1\nversion=1\n"


@pytest.fixture
def formatted(tmp_path: Path) -> Path:
    folder = tmp_path / "log.new"
    (folder / "__cluster_metadata-0").mkdir(parents=True)
    (folder / "meta.properties").write_text(META.format(formatting.new_id(), formatting.new_id()))
    (folder / "__cluster_metadata-0" / "0.checkpoint").write_bytes(bytes(range(256)))
    return folder


def ids(folder: Path) -> dict[str, str]:
    lines = (folder / "meta.properties").read_text().splitlines()
    return dict(line.split("=") for line in lines if ".id=" in line)


def test_everything_is_the_same_except_the_two_ids(formatted: Path, tmp_path: Path) -> None:
    text = formatting.keep(formatted)
    assert text is not None
    assert formatting.lay_out(text, tmp_path / "one")
    assert formatting.lay_out(text, tmp_path / "two")
    seen = [ids(folder) for folder in (formatted, tmp_path / "one", tmp_path / "two")]
    assert {one["node.id"] for one in seen} == {"1"}
    for name in ("cluster.id", "directory.id"):
        assert len({one[name] for one in seen}) == 3
    assert (tmp_path / "one" / "__cluster_metadata-0" / "0.checkpoint").read_bytes() == bytes(range(256))
    assert (tmp_path / "one" / "meta.properties").read_text().endswith("\nnode.id=1\nversion=1\n")


def test_the_nodes_of_a_cluster_share_the_id_of_the_cluster_alone(formatted: Path, tmp_path: Path) -> None:
    text, cluster_id = formatting.keep(formatted), formatting.new_id()
    assert text is not None
    assert formatting.lay_out(text, tmp_path / "one", cluster_id)
    assert formatting.lay_out(text, tmp_path / "two", cluster_id)
    one, two = ids(tmp_path / "one"), ids(tmp_path / "two")
    assert one["cluster.id"] == two["cluster.id"] == cluster_id
    assert len({one["directory.id"], two["directory.id"], cluster_id}) == 3


def test_a_directory_with_an_id_elsewhere_is_not_kept(formatted: Path) -> None:
    (formatted / "quorum-state").write_text(json.dumps({"clusterId": ids(formatted)["cluster.id"]}))
    assert formatting.keep(formatted) is None


@pytest.mark.parametrize("damage", [lambda t: t[:-20], lambda t: t.replace("AAEC", "AAED"), lambda _: "[]", lambda _: ""])
def test_a_damaged_one_is_not_copied(formatted: Path, tmp_path: Path, damage: object) -> None:
    text = formatting.keep(formatted)
    assert text is not None
    assert callable(damage)
    assert damage(text) != text
    assert not formatting.lay_out(damage(text), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_other_jars_and_other_settings_have_files_of_their_own(tmp_path: Path) -> None:
    one, other = [tmp_path / "kafka-1.jar"], [tmp_path / "kafka-2.jar"]
    files = {
        formatting.kept_file(one, {"a": "1"}),
        formatting.kept_file(one, {"a": "2"}),
        formatting.kept_file(other, {"a": "1"}),
    }
    assert len(files) == 3
    assert {file.parent for file in files} == {tmp_path}
