"""The files that ship: the list of settings, the compose file, the image."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema.validators import validator_for
from pydantic_settings import BaseSettings

from api.processes.exposure import check_exposure
from api.processes.replicas import check_replicas
from api.settings import Settings
from ledger.errors import ConfigError
from ledger.kafka.settings import KafkaSettings
from ledger.memory.log import MemoryLog
from tests.support.published_schemas import published_schema

ROOT = Path(__file__).parents[2]
KINDS: tuple[type[BaseSettings], ...] = (Settings, KafkaSettings)
SHOP_NAMES = {
    "PORT",
    "PAYMENT_GATEWAY_API_KEY",
    "PAYMENT_GATEWAY_SECRET_KEY",
    "PRODUCT_SERVICE_URL",
    "PRODUCT_SERVICE_GRPC_TARGET",
    "MERCH_SERVICE_URL",
    "MERCH_SERVICE_GRPC_TARGET",
}


def setting_names(kind: type[BaseSettings]) -> set[str]:
    return {f"{kind.model_config.get('env_prefix') or ''}{name}".upper() for name in kind.model_fields}


SETTING_NAMES = setting_names(Settings) | setting_names(KafkaSettings)


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment without any setting, in a folder without `.env`."""
    for name in SETTING_NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


# ---- .env.example ---------------------------------------------------------------------------------------------------


def example_lines() -> list[str]:
    return (ROOT / ".env.example").read_text("utf-8").splitlines()


def example() -> dict[str, str]:
    return dict(line.split("=", 1) for line in example_lines() if line and not line.startswith("#"))


def test_env_example_lists_every_setting_once_and_nothing_else() -> None:
    names = [line.split("=", 1)[0] for line in example_lines() if line and not line.startswith("#")]
    assert sorted(names) == sorted(SETTING_NAMES)
    assert set(names) >= SHOP_NAMES


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_of_env_example_changes_no_default(kind: type[BaseSettings], no_settings: None) -> None:
    shutil.copy(ROOT / ".env.example", ".env")
    assert kind(_env_file=".env").model_dump() == kind(_env_file=None).model_dump()


def test_env_example_has_no_secret_and_a_default_for_everything_that_has_one() -> None:
    values = example()
    for kind in KINDS:
        for name, field in kind.model_fields.items():
            has_default = field.default is not None and field.default_factory is None and field.default != ""
            assert bool(values[f"{kind.model_config.get('env_prefix') or ''}{name}".upper()]) == has_default, name
            assert not ("SecretStr" in str(field.annotation) and has_default), name


def test_every_setting_in_env_example_has_a_comment() -> None:
    lines = example_lines()
    for number, line in enumerate(lines):
        if line and not line.startswith("#"):
            before = number - 1
            while lines[before] and not lines[before].startswith("#"):
                before -= 1  # one comment may be for a group
            assert lines[before].startswith("# "), line


# ---- docker-compose.yml ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    return document


def ours(compose: Mapping[str, Any]) -> dict[str, Any]:
    """The services of this project's image."""
    return {name: service for name, service in compose["services"].items() if "build" in service}


def test_the_compose_file_keeps_the_compose_specification(compose: dict[str, Any]) -> None:
    schema = published_schema("compose-spec")
    validator = validator_for(schema)(schema)
    assert [f"{'/'.join(map(str, e.absolute_path))}: {e.message}" for e in validator.iter_errors(compose)] == []
    broken = copy.deepcopy(compose)
    broken["services"]["serve"]["restarts"] = "always"
    assert not validator.is_valid(broken)


def test_compose_sets_only_settings(compose: dict[str, Any]) -> None:
    services = ours(compose)
    assert set(services) == {"schemas", "commands", "serve"}
    for name, service in services.items():
        assert set(service["environment"]) <= SETTING_NAMES, name
        assert service["environment"]["KAFKA_BOOTSTRAP_SERVERS"] == "kafka:19092"


def test_the_settings_accept_what_compose_sets(
    compose: dict[str, Any], no_settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for service in ours(compose).values():
        for name, value in service["environment"].items():
            monkeypatch.setenv(name, interpolated(str(value), {}))
    assert Settings().host == "0.0.0.0"
    assert Settings().state_dir == Path(STATE_DIR)
    assert KafkaSettings().bootstrap_servers == "kafka:19092"


def interpolated(text: str, environment: Mapping[str, str]) -> str:
    """`text` as compose reads it: `${NAME:-default}` where NAME is not set or empty, `${NAME:?message}`."""

    def value(match: re.Match[str]) -> str:
        name, kind, alternative = match.groups()
        return environment.get(name) or (alternative if kind == ":-" else f"({name})")

    return re.sub(r"\$\{(\w+)(:-|:\?)([^}]*)\}", value, text)


@pytest.mark.parametrize(
    ("chosen", "kept"), [({}, "production"), ({"APP_ENV": ""}, "production"), ({"APP_ENV": "development"}, "development")]
)
def test_compose_and_the_image_are_production_unless_set_otherwise(
    chosen: dict[str, str], kept: str, compose: dict[str, Any], no_settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for service in ours(compose).values():
        assert interpolated(service["environment"]["APP_ENV"], chosen) == kept
    # `docker run` without compose: an empty value overrides the image's, and is not taken for a word
    for name, value in (image_environment() | chosen).items():
        monkeypatch.setenv(name, value)
    if chosen.get("APP_ENV") == "":
        with pytest.raises(ConfigError, match="set APP_ENV to production"):
            check_exposure(Settings(), KafkaSettings())
    else:
        assert Settings().app_env == kept


def test_the_kafka_of_compose_is_allowed_by_name(
    compose: dict[str, Any], no_settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in compose["services"]["serve"]["environment"].items():
        monkeypatch.setenv(name, interpolated(str(value), {}))
    assert Settings().app_env == "production"
    check_exposure(Settings(), KafkaSettings())
    monkeypatch.delenv("ALLOW_PLAINTEXT")
    with pytest.raises(ConfigError, match=r"^KAFKA_SECURITY_PROTOCOL "):
        check_exposure(Settings(), KafkaSettings())


def test_a_copy_of_env_example_with_the_required_lines_set_starts_on_the_one_broker_of_compose(
    compose: dict[str, Any], no_settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head of the compose file says to copy it. An `environment` wins over an `env_file`, and is interpolated from `.env`."""
    copied = example() | {"LEDGER_HASH_KEY": "k" * 32, "LEDGER_TOKENS_FILE": "tokens.json"}
    for service in ours(compose).values():
        assert [file["path"] for file in service["env_file"]] == [".env"]
        own = {name: interpolated(str(value), copied) for name, value in service["environment"].items()}
        for name, value in (image_environment() | copied | own).items():
            if name in SETTING_NAMES:
                monkeypatch.setenv(name, value)
        settings, log = Settings(), MemoryLog()
        log.ensure_topics(settings.topics.specs(1, 1))
        assert settings.app_env == "production"
        check_exposure(settings, KafkaSettings())
        assert check_replicas(log, settings, threading.Event())


def test_each_long_running_service_has_a_place_name_and_a_volume_of_its_own(compose: dict[str, Any]) -> None:
    services = {name: service for name, service in ours(compose).items() if service["restart"] == "unless-stopped"}
    assert set(services) == {"commands", "serve"}
    assert len({service["environment"]["NODE_ID"] for service in services.values()}) == len(services)
    mounts = [service["volumes"] for service in services.values()]
    assert sorted(mounts) == [[f"commands-state:{STATE_DIR}"], [f"serve-state:{STATE_DIR}"]]
    assert set(compose["volumes"]) == {"kafka-data", "commands-state", "serve-state"}


def test_ports_are_published_on_loopback_only(compose: dict[str, Any]) -> None:
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert published
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []


def test_everything_waits_for_what_it_needs(compose: dict[str, Any]) -> None:
    def waits(name: str) -> dict[str, str]:
        return {other: how["condition"] for other, how in compose["services"][name]["depends_on"].items()}

    assert waits("registry") == {"kafka": "service_healthy"}
    assert waits("schemas") == {"registry": "service_healthy"}
    assert waits("commands") == waits("serve") == {"kafka": "service_healthy", "schemas": "service_completed_successfully"}
    for name in ("kafka", "registry"):
        assert compose["services"][name]["healthcheck"]["test"][0] == "CMD"


def test_compose_stops_with_a_message_when_the_key_or_the_tokens_are_missing() -> None:
    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    assert re.search(r"LEDGER_HASH_KEY: \$\{LEDGER_HASH_KEY:\?[^}]{20,}\}", text)
    assert re.search(r"file: \$\{LEDGER_TOKENS_FILE:\?[^}]{20,}\}", text)


def test_images_are_pinned_to_a_version(compose: dict[str, Any]) -> None:
    images = [service["image"] for service in compose["services"].values() if "build" not in service]
    assert sorted(image.split(":")[0] for image in images) == ["apache/kafka", "apicurio/apicurio-registry"]
    assert [image for image in images if not re.search(r":\d+\.\d+\.\d+$", image)] == []


def test_the_registry_address_is_where_apicurio_answers_confluents_api(compose: dict[str, Any]) -> None:
    for service in ours(compose).values():
        assert service["environment"]["SCHEMA_REGISTRY_URL"] == "http://registry:8080/apis/ccompat/v7"
    assert compose["services"]["registry"]["ports"] == ["127.0.0.1:8081:8080"]


# ---- Dockerfile -----------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) of the Dockerfile, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def last_stage() -> list[tuple[str, str]]:
    lines = instructions()
    start = max(number for number, (name, _) in enumerate(lines) if name == "FROM")
    assert start > 0, "the image is built in more than one stage"
    return lines[start:]


def image_environment() -> dict[str, str]:
    pairs = (pair.split("=", 1) for name, arguments in last_stage() if name == "ENV" for pair in arguments.split())
    return dict(pairs)


STATE_DIR = image_environment()["STATE_DIR"]


def test_the_image_runs_as_a_user_without_rights() -> None:
    users = [arguments for name, arguments in last_stage() if name == "USER"]
    assert len(users) == 1
    uid, gid = map(int, users[0].split(":"))
    assert min(uid, gid) >= 10_000
    setup = " ".join(arguments for name, arguments in last_stage() if name == "RUN")
    assert f"--uid {uid}" in setup
    assert f"install -d -o ledger -g ledger -m 0750 {STATE_DIR}" in setup
    order = [name for name, _ in last_stage()]
    assert order.index("USER") < order.index("CMD")
    assert order.index("USER") > max(number for number, name in enumerate(order) if name in ("RUN", "COPY"))


def test_the_image_starts_a_command_that_the_project_has() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    (command,) = [json.loads(arguments) for name, arguments in last_stage() if name == "CMD"]
    assert command == ["order-ledger", "serve"]
    assert command[0] in scripts
    helping = [sys.executable, "-m", "api.cli", *command[1:], "--help"]
    done = subprocess.run(helping, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_image_keeps_its_state_on_a_volume_and_sets_only_settings() -> None:
    assert [arguments for name, arguments in last_stage() if name == "VOLUME"] == [STATE_DIR]
    assert set(image_environment()) - {"PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"} <= SETTING_NAMES


def test_the_image_has_a_python_that_the_project_supports() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = {re.search(r"python:(\d+\.\d+)", arguments)[1] for name, arguments in instructions() if name == "FROM"}  # type: ignore[index]
    assert len(versions) == 1
    assert f"Programming Language :: Python :: {versions.pop()}" in project["classifiers"]


@contextmanager
def answering(status: int) -> Iterator[tuple[int, list[str]]]:
    """A server on loopback that answers everything with `status`; yields its port and the requested paths."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield http.server_port, paths
        http.shutdown()
        thread.join()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_images_health_check_asks_whether_serve_is_ready(status: int, code: int) -> None:
    (check,) = [arguments for name, arguments in last_stage() if name == "HEALTHCHECK"]
    command = json.loads(check.split("CMD ", 1)[1])
    assert command[0] == "python"
    with answering(status) as (port, paths):
        # `docker` passes the proxies of its configuration on; none of them reaches this machine's loopback
        proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"), "http://127.0.0.1:9")
        around = {name: value for name, value in os.environ.items() if name.upper() != "NO_PROXY"}
        environment = around | proxies | {"PORT": str(port)}
        done = subprocess.run([sys.executable, *command[1:]], env=environment, capture_output=True, check=False)
    assert done.returncode == code
    assert paths == ["/ready"]
