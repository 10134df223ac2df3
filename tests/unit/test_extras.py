"""An installation without extras: everything that runs beside a Kafka cluster works, the rest says what to install.

The child processes here refuse to import every module that `pip install order-ledger` would not have brought: those of the
extras, of the development group, and what only these depend on.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from ledger.errors import MissingExtra
from ledger.extras import EXTRAS, needs
from tests.support.sources import PACKAGES

ROOT = Path(__file__).parents[2]
NEED_AN_EXTRA = {
    "embedded": {"api.cli.demo.run", "api.processes.up"} | {f"ledger.broker.{name}" for name in ("aot_training", "java", "node")},
    "export": {"api.cli.export", "api.cli.parquet"},
    "oidc": {"api.callers.signed_tokens"},
    "sms": {"commands.notifier.sms_door"},
}

REFUSING = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

refused = set(sys.argv.pop(1).split(","))
sys.meta_path.insert(0, Refused())
"""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def without_extras() -> frozenset[str]:
    """Names of the distributions that `pip install order-ledger` brings here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = [Requirement(text) for text in project["dependencies"]]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        one = waiting.pop()
        key = (normal(one.name), frozenset(one.extras))
        if key not in seen:
            seen.add(key)
            with suppress(PackageNotFoundError):  # of another platform
                needed = map(Requirement, distribution(one.name).requires or ())
                waiting += [requirement for requirement in needed if applies(requirement, one.extras)]
    return frozenset(name for name, _ in seen)


def applies(requirement: Requirement, extras: set[str]) -> bool:
    """Whether a library with these extras needs it here."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


@cache
def refused() -> str:
    """Top-level modules that are here, but not in an installation without extras."""
    names = [
        module
        for module, owners in packages_distributions().items()
        if module not in PACKAGES and not {normal(owner) for owner in owners} & {"order-ledger", *without_extras()}
    ]
    return ",".join(sorted(names))


def run(program: str, *arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:

    command = [sys.executable, "-c", REFUSING + program, refused(), *arguments]
    around = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "TMPDIR")}
    around |= {"PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, cwd=folder, env=around, capture_output=True, text=True, timeout=300, check=False)


def test_what_is_refused_is_what_an_installation_without_extras_lacks() -> None:
    names = set(refused().split(","))
    # Of OpenTelemetry, the interface comes with other libraries; what the extra brings is below it.
    assert {library for _, libraries in EXTRAS.values() for library in libraries if "." not in library} <= names
    assert {"pytest", "hypothesis", "duckdb", "grpc_tools"} <= names
    assert names & {"grpc", "stripe", "confluent_kafka", "fastavro", "avro", "phonenumbers", "faust", "typer", "rich"} == set()


def test_an_installation_without_extras_is_small() -> None:
    files = [distribution(name).locate_file(file) for name in installed() for file in distribution(name).files or ()]
    sizes = [Path(str(file)).stat().st_size for file in files if Path(str(file)).is_file() and not str(file).endswith(".pyc")]
    assert 50 < sum(sizes) / 1e6 < 200


def installed() -> list[str]:
    """Those of `without_extras` that are here: some are for other platforms."""
    here = {normal(name) for owners in packages_distributions().values() for name in owners}
    return sorted(without_extras() & here)


IMPORT_ALL = """
import importlib, json, pkgutil
failed = {}
for package in ("ledger", "commands", "projections", "api"):
    for module in pkgutil.walk_packages([f"{sys.argv[1]}/{package}"], f"{package}."):
        if not module.name.endswith("__main__"):
            try:
                importlib.import_module(module.name)
            except Exception as error:
                failed[module.name] = f"{getattr(error, 'code', type(error).__name__)}: {error}"
print(json.dumps(failed))
"""


def test_every_module_is_imported_without_extras_or_names_the_one_it_needs(tmp_path: Path) -> None:
    done = run(IMPORT_ALL, str(ROOT), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    failed: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    for extra, names in NEED_AN_EXTRA.items():
        for name in names:
            assert f"pip install 'order-ledger[{extra}]'" in failed.pop(name, ""), name
    assert failed == {}


PROCESS = """
import json
import os
known = set(sys.modules)
exec(sys.argv[1])
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - known})))
"""


@pytest.mark.parametrize(
    ("source", "imports", "not_even"),
    [
        (
            "import api.processes.serve",
            {"fastapi", "uvicorn", "faust", "rocksdict", "confluent_kafka", "phonenumbers"},
            {"stripe", "grpc"},
        ),
        (
            "import api.processes.companions, api.processes.wiring, commands.processor.process",
            {"rocksdict", "confluent_kafka", "fastavro"},
            {"fastapi", "faust", "uvicorn"},
        ),
        ("import api.processes.sandbox", {"starlette", "uvicorn"}, {"fastapi", "rocksdict", "confluent_kafka"}),
        ("import commands.reconciler.stripe_gateway, commands.reconciler.stock_grpc", {"stripe", "grpc"}, {"fastapi"}),
        ("import commands.notifier.email_door, commands.notifier.loop", {"msgspec"}, {"fastapi"}),
        ("import api.cli.verify, api.cli.doctor, api.cli.tail, api.cli.archive, api.cli.transactions", {"rich"}, {"fastapi"}),
    ],
)
def test_each_process_imports_these_modules_without_extras(
    source: str, imports: set[str], not_even: set[str], tmp_path: Path
) -> None:
    done = run(PROCESS, source, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    imported = set(json.loads(done.stdout.splitlines()[-1]))
    assert imports <= imported
    assert imported & not_even == set()
    owners = packages_distributions()
    foreign = {module for module in imported if module in owners and module not in PACKAGES}
    assert {module for module in foreign if not {normal(o) for o in owners[module]} & without_extras()} == set()


CLI = "from api.cli import main\nmain()"


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("up",), "embedded"),
        (("demo",), "embedded"),
        (("broker",), "embedded"),
        (("export", "orders.parquet"), "export"),
    ],
)
def test_a_verb_without_its_extra_says_in_one_line_what_to_install(
    arguments: tuple[str, ...], extra: str, tmp_path: Path
) -> None:
    done = run(CLI, *arguments, folder=tmp_path, ORDER_LEDGER_CACHE=str(tmp_path / "cache"))
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert re.search(
        rf"^error \(missing_extra\): .* needs \w+, which is not installed: pip install 'order-ledger\[{extra}\]'$", done.stderr
    )
    assert list(tmp_path.iterdir()) == []


def test_commands_with_a_text_message_service_says_at_its_start_what_to_install(tmp_path: Path) -> None:
    settings = {"SANDBOX_URL": "http://127.0.0.1:9", "NOTIFY_SMS_URL": "twilio://secret:token@15005550006"}
    done = run(CLI, "commands", folder=tmp_path, LEDGER_HASH_KEY="x" * 32, STATE_DIR=str(tmp_path / "state"), **settings)
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].endswith("pip install 'order-ledger[sms]'")
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


@pytest.mark.parametrize("arguments", [("--help",), ("up", "--help"), ("schema", "check"), ("privacy",), ("token", "reader")])
def test_other_verbs_work_without_extras(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = run(CLI, *arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_a_library_that_fails_for_another_reason_is_not_called_missing() -> None:
    with pytest.raises(ModuleNotFoundError, match="something_else"), needs("export"):
        import something_else  # type: ignore[import-not-found]  # noqa: F401
    with pytest.raises(MissingExtra), needs("export"):
        raise ModuleNotFoundError("No module named 'pyarrow.parquet'", name="pyarrow.parquet")
