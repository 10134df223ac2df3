"""The contents of the wheel; and an installed one works without the source tree."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from ledger.extras import EXTRAS

ROOT = Path(__file__).parents[2]


def docker_context() -> list[str]:
    """The files that `.dockerignore` lets in: everything is out except what it names."""
    lines = [line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    return [line[1:] for line in lines if line.startswith("!")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as the image builds it: from Docker's context and nothing else."""
    source, out = tmp_path_factory.mktemp("context"), tmp_path_factory.mktemp("dist")
    for name in docker_context():
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        else:
            shutil.copy(ROOT / name, source / name)
    uv = shutil.which("uv")
    assert uv, "uv is not on PATH"
    build = [uv, "build", "--wheel", "--out-dir", str(out)]
    done = subprocess.run(build, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return built


def test_the_docker_context_has_no_secret_and_no_data() -> None:
    names = docker_context()
    assert [name for name in names if name.startswith(".") or "*" in name] == []
    assert all((ROOT / name).exists() for name in names)


def test_the_wheel_has_the_schemas_and_the_lock_of_kafkas_jars(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    schemas = {f"ledger/avsc/{path.name}" for path in (ROOT / "avro").glob("*.avsc")}
    assert len(schemas) >= 4
    assert schemas | {"ledger/avsc/kafka.lock.json"} <= names
    for path in (ROOT / "avro").iterdir():
        if path.is_file():
            assert zipfile.ZipFile(wheel).read(f"ledger/avsc/{path.name}") == path.read_bytes()


def test_the_wheel_has_the_packages_the_licence_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"api", "commands", "ledger", "projections"}
    assert [name for name in names if "__pycache__" in name or "/." in name] == []
    (licence,) = [name for name in names if name.endswith("LICENSE")]
    assert zipfile.ZipFile(wheel).read(licence) == (ROOT / "LICENSE").read_bytes()
    assert b"Apache License" in zipfile.ZipFile(wheel).read(licence)


def test_the_wheel_has_the_templates_of_messages(wheel: Path) -> None:
    folder = ROOT / "commands" / "notifier" / "templates"
    templates = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert len(templates) > 54
    archive = zipfile.ZipFile(wheel)
    assert {name: archive.read(name) for name in archive.namelist() if "/templates/" in name} == templates


def test_the_wheel_has_the_files_for_operators(wheel: Path) -> None:
    files = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in (ROOT / "api" / "ops").rglob("*") if path.is_file()}
    assert "api/ops/RUNBOOK.md" in files
    archive = zipfile.ZipFile(wheel)
    assert {name: archive.read(name) for name in archive.namelist() if name.startswith("api/ops/")} == files


def test_the_wheel_has_the_console(wheel: Path) -> None:
    files = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in (ROOT / "api" / "console").iterdir()}
    assert len(files) > 25
    archive = zipfile.ZipFile(wheel)
    assert {name: archive.read(name) for name in archive.namelist() if name.startswith("api/console/")} == files


def test_each_package_of_the_wheel_says_that_it_has_types(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"{package}/py.typed" for package in ("api", "commands", "ledger", "projections")} <= names


def test_the_wheel_has_the_projects_address_and_its_extras(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    lines = archive.read(metadata).decode().splitlines()
    urls = {line.removeprefix("Project-URL: ").partition(",")[0] for line in lines if line.startswith("Project-URL: ")}
    assert urls == {"Repository", "Documentation", "Changelog", "Issues"}
    assert {f"Provides-Extra: {name}" for name in ("embedded", "export", "oidc", "registry", "sms")} <= set(lines)


def test_the_tests_have_the_extras() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (own,) = [one for one in map(Requirement, project["dependency-groups"]["dev"]) if one.name == "order-ledger"]
    assert own.extras == set(project["project"]["optional-dependencies"])
    assert "dev" in project["tool"]["uv"].get("default-groups", ["dev"])  # what `uv run` installs
    for extra, (_, libraries) in EXTRAS.items():
        names = {Requirement(one).name for one in project["project"]["optional-dependencies"][extra]}
        assert {name.startswith(tuple(library.replace(".", "-") for library in libraries)) for name in names} == {True}, extra
        assert len(names) == len(libraries)


def test_an_installed_wheel_finds_its_schemas_and_its_command_without_the_source_tree(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    script = (
        "import json, ledger.schemas.data_files as f, ledger.schemas.versions as s, ledger.broker.jars as j, api.cli as c\n"
        "print(json.dumps([str(f.data_dir()), len(s.schema_versions()), len(j.JarLock.read().jars), c.__file__]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    program = [sys.executable, "-c", script]
    done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folder, schemas, jars, cli = json.loads(done.stdout)
    assert Path(folder) == tmp_path / "ledger" / "avsc"
    assert schemas == len(list((ROOT / "avro").glob("*.avsc")))
    assert jars > 0
    assert Path(cli) == tmp_path / "api" / "cli" / "__init__.py"
    (entry_points,) = tmp_path.glob("*.dist-info/entry_points.txt")
    assert "order-ledger = api.cli:main" in entry_points.read_text()
