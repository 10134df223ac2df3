"""The files for Kubernetes keep the policy, fit each other and the program, and are valid for its oldest and newest version."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import kubernetes_validate
import pytest
import typer

from api.cli.verbs import app
from api.processes.exposure import check_exposure
from api.processes.outside import check_outside
from api.settings import Settings
from ledger.kafka.settings import KafkaSettings
from tests.support.kubernetes_policy import (
    OF_OPERATORS,
    SECRETS,
    SETTINGS,
    WORKLOADS,
    Object,
    containers,
    literals,
    named,
    objects,
    of_kind,
    scraped,
    wrong_image,
    wrong_literals,
    wrong_selectors,
    wrong_variables,
    wrong_workload,
)

ROOT = Path(__file__).parents[2]
BASE, DEV, PRODUCTION = "kubernetes/base/", "kubernetes/overlays/dev/", "kubernetes/overlays/production/"
OVERLAYS = (DEV, PRODUCTION)
PROCESSES = ("commands", "serve")
OLDEST, NEWEST = "1.30", "1.37"  # `sleep` in preStop is on by default since 1.30


def workload(name: str) -> Object:
    return named(objects(BASE), "StatefulSet", name)


def kustomization(under: str) -> Object:
    (one,) = of_kind(objects(under), "Kustomization")
    return one


def patches(under: str) -> list[Object]:
    """Parts of StatefulSets that an overlay adds."""
    return of_kind(objects(under), "StatefulSet")


# ---- the policy -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROCESSES)
def test_each_pod_keeps_the_policy(name: str) -> None:
    assert wrong_workload(workload(name)) == []


def test_there_are_two_stateful_sets_and_no_other_workload() -> None:
    assert [one["metadata"]["name"] for one in of_kind(objects(BASE), *WORKLOADS)] == list(PROCESSES)
    assert [one for under in OVERLAYS for one in of_kind(objects(under), *WORKLOADS) if one["kind"] != "StatefulSet"] == []


BREAKS: dict[str, Callable[[Any, Any], object]] = {
    "may be root": lambda pod, one: pod["securityContext"].update(runAsUser=0),
    "no seccomp profile": lambda pod, one: pod["securityContext"].pop("seccompProfile"),
    "has a token of the Kubernetes API": lambda pod, one: pod.pop("automountServiceAccountToken"),
    "gets variables named after Services": lambda pod, one: pod.pop("enableServiceLinks"),
    "hostNetwork is set": lambda pod, one: pod.update(hostNetwork=True),
    "is of the node": lambda pod, one: pod["volumes"].append({"name": "docker", "hostPath": {"path": "/"}}),
    "no volume is": lambda pod, one: pod.update(volumes=[]),
    "may get more rights": lambda pod, one: one["securityContext"].pop("allowPrivilegeEscalation"),
    "may write into its image": lambda pod, one: one["securityContext"].pop("readOnlyRootFilesystem"),
    "has capabilities": lambda pod, one: one["securityContext"].pop("capabilities"),
    "has no version": lambda pod, one: one.update(image="order-ledger:latest"),
    "does not say what it needs": lambda pod, one: one["resources"].pop("requests"),
    "has no limits": lambda pod, one: one["resources"]["limits"].pop("memory"),
    "is throttled": lambda pod, one: one["resources"]["limits"].update(cpu="1"),
    "startupProbe does not ask /live": lambda pod, one: one.pop("startupProbe"),
    "livenessProbe does not ask /live": lambda pod, one: one["livenessProbe"]["httpGet"].update(path="/ready"),
    "readinessProbe does not ask /ready": lambda pod, one: one["readinessProbe"]["httpGet"].update(port="web"),
    "HASH_KEY is no setting": lambda pod, one: one["env"].append({"name": "HASH_KEY", "value": "1"}),
    "not a reference to a Secret": lambda pod, one: one["env"].append({"name": "LEDGER_HASH_KEY", "value": "1"}),
    "not spread": lambda pod, one: pod.pop("topologySpreadConstraints"),
}


@pytest.mark.parametrize("fault", BREAKS)
def test_a_pod_that_breaks_the_policy_is_seen(fault: str) -> None:
    broken = copy.deepcopy(workload("serve"))
    pod = broken["spec"]["template"]["spec"]
    BREAKS[fault](pod, pod["containers"][0])
    assert [one for one in wrong_workload(broken) if fault in one]


@pytest.mark.parametrize("under", [BASE, *OVERLAYS])
def test_what_an_overlay_sets_are_settings_and_secrets_only_by_reference(under: str) -> None:
    assert wrong_literals(literals(kustomization(under))) == []
    for patch in patches(under):
        for container in containers(patch["spec"]["template"]["spec"]):
            assert wrong_variables(container.get("env", ())) == []
    assert wrong_literals({"LEDGER_HASH_KEY": "1", "HASH_KEY": "2"}) == ["HASH_KEY is no setting", "LEDGER_HASH_KEY is a secret"]


def test_no_secret_is_in_the_files() -> None:
    everything = [one for under in (BASE, *OVERLAYS, "kubernetes/monitoring/") for one in objects(under)]
    assert of_kind(everything, "Secret") == []
    assert [one for one in of_kind(everything, "Kustomization") if "secretGenerator" in one] == []


def test_an_overlay_names_the_version_of_the_image() -> None:
    for under in OVERLAYS:
        images = kustomization(under)["images"]
        assert [image["name"] for image in images] == ["order-ledger"]
        assert not wrong_image(f"{images[0]['name']}:{images[0]['newTag']}")
    assert list(map(wrong_image, ["a", "a:latest", "reg:5000/a", "a:0.2.0", "a@sha256:00"])) == [True, True, True, False, False]


# ---- the files fit each other ---------------------------------------------------------------------------------------


def test_everything_that_selects_pods_selects_some_and_their_ports() -> None:
    assert wrong_selectors(objects(BASE)) == []
    broken = copy.deepcopy(objects(BASE))
    for one in of_kind(broken, "StatefulSet"):
        one["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"] = "other"
    assert len(wrong_selectors(broken)) >= 8


def test_prometheus_gets_each_process_once_under_the_name_that_the_alerts_know() -> None:
    monitors = of_kind(objects(BASE), "ServiceMonitor")
    names = [[service["metadata"]["name"] for service in scraped(one, objects(BASE))] for one in monitors]
    assert names == [["order-ledger-commands"], ["order-ledger-serve"]]
    (endpoint,) = named(objects(BASE), "ServiceMonitor", "serve")["spec"]["endpoints"]
    assert endpoint["authorization"]["credentials"].keys() == {"name", "key"}  # a token of the API


def test_each_workload_has_the_service_that_it_names_and_a_budget() -> None:
    for name in PROCESSES:
        service = named(objects(BASE), "Service", workload(name)["spec"]["serviceName"])
        assert service["spec"]["clusterIP"] == "None"
        assert named(objects(BASE), "PodDisruptionBudget", name)["spec"]["maxUnavailable"] == 1


def test_without_a_rule_nothing_reaches_a_pod_and_it_reaches_nothing() -> None:
    everybody = named(objects(BASE), "NetworkPolicy", "order-ledger")["spec"]
    assert everybody["policyTypes"] == ["Ingress", "Egress"]
    assert everybody["ingress"] == []
    for one in of_kind(objects(BASE), "NetworkPolicy"):
        assert all(rule.get("from") for rule in one["spec"]["ingress"])
        assert all(rule["ports"] for rule in one["spec"]["egress"])


def test_the_resources_of_each_kustomization_are_there() -> None:
    for under in (BASE, *OVERLAYS, "kubernetes/monitoring/"):
        folder = PurePosixPath(under)
        for resource in kustomization(under)["resources"]:
            target = (ROOT / "api/ops" / folder / resource).resolve().relative_to(ROOT / "api/ops").as_posix()
            assert objects(target), f"{under}{resource}"


def test_each_patch_changes_a_container_that_the_base_has() -> None:
    for under in OVERLAYS:
        for patch in patches(under):
            base = workload(patch["metadata"]["name"])["spec"]["template"]["spec"]
            known = {one["name"] for one in base["containers"]}
            assert {one["name"] for one in patch["spec"]["template"]["spec"]["containers"]} <= known


# ---- the files fit the program --------------------------------------------------------------------------------------


def settings_of(under: str, process: str) -> dict[str, str]:
    """The environment of a process, with something for each reference."""
    values = literals(kustomization(BASE)) | literals(kustomization(under))
    for one in [workload(process), *(patch for patch in patches(under) if patch["metadata"]["name"] == process)]:
        for container in one["spec"]["template"]["spec"]["containers"]:
            for variable in container.get("env", ()):
                values[variable["name"]] = variable.get("value", "smtps://user:a-long-secret@mail.example.org")
    return values


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize(("under", "is_whole"), [(DEV, False), (PRODUCTION, True)])
def test_the_program_starts_with_these_settings(
    under: str, is_whole: bool, process: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    for name, value in settings_of(under, process).items():
        monkeypatch.setenv(name, value)
    settings, kafka = Settings(), KafkaSettings()
    check_exposure(settings, kafka)
    assert check_outside(settings) is is_whole
    assert settings.app_env == ("production" if is_whole else "development")
    if process == "serve":
        assert settings.hash_key()
        assert settings.ledger_tokens_file is not None


def test_production_shares_its_writers_so_that_each_node_is_the_standby_of_another() -> None:
    values = literals(kustomization(PRODUCTION))
    (nodes,) = [one["count"] for one in kustomization(PRODUCTION)["replicas"] if one["name"] == "commands"]
    assert nodes > 1
    assert int(values["STANDBY_WRITERS"]) * nodes >= int(values["WRITERS"])
    assert int(values["KAFKA_REPLICATION_FACTOR"]) == 3


@pytest.mark.parametrize("process", PROCESSES)
def test_a_pod_runs_a_verb_of_the_program_under_a_name_of_its_own(process: str) -> None:
    (container,) = workload(process)["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["order-ledger", process]
    assert process in getattr(typer.main.get_command(app), "commands", {})
    (node,) = [one for one in container["env"] if one["name"] == "NODE_ID"]
    assert node["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}


@pytest.mark.parametrize(("process", "port", "setting"), [("commands", "metrics", "METRICS_PORT"), ("serve", "http", "PORT")])
def test_a_pod_listens_on_the_port_that_it_names(process: str, port: str, setting: str) -> None:
    (container,) = workload(process)["spec"]["template"]["spec"]["containers"]
    assert container["ports"] == [{"name": port, "containerPort": int(literals(kustomization(BASE))[setting])}]


@pytest.mark.parametrize("process", PROCESSES)
def test_what_is_written_is_written_below_a_volume(process: str) -> None:
    """The folder of a volume belongs to root; `private_folder` may not restrict it, but one below it."""
    (container,) = workload(process)["spec"]["template"]["spec"]["containers"]
    (mount,) = [PurePosixPath(m["mountPath"]) for m in container["volumeMounts"] if m["name"] == "state"]
    for setting in ("STATE_DIR", "OUTBOX_DIR"):
        assert mount in PurePosixPath(literals(kustomization(BASE))[setting]).parents


def test_the_user_is_that_of_the_image() -> None:
    user = re.search(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert user is not None
    for process in PROCESSES:
        rights = workload(process)["spec"]["template"]["spec"]["securityContext"]
        assert (rights["runAsUser"], rights["runAsGroup"], rights["fsGroup"]) == (int(user[1]), int(user[2]), int(user[2]))


def test_every_secret_that_the_pods_refer_to_is_explained() -> None:
    text = (ROOT / "api/ops/README.md").read_text("utf-8")
    secrets = {
        variable["valueFrom"]["secretKeyRef"]["name"]
        for one in (*objects(BASE), *patches(PRODUCTION))
        if one["kind"] == "StatefulSet"
        for container in one["spec"]["template"]["spec"]["containers"]
        for variable in container["env"]
        if variable["name"] in SECRETS
    }
    assert len(secrets) == 4
    assert {name for name in {*secrets, "order-ledger-metrics"} if f"generic {name} " not in text} == set()


# ---- schemas --------------------------------------------------------------------------------------------------------


def whole_objects() -> list[Object]:
    """All that are not parts for Kustomize, and not of an operator."""
    of_overlays = [one for under in OVERLAYS for one in objects(under) if one["kind"] != "StatefulSet"]
    return [one for one in (*objects(BASE), *of_overlays) if not one["apiVersion"].startswith(OF_OPERATORS)]


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_the_objects_are_valid(version: str) -> None:
    assert len(whole_objects()) > 10
    for one in whole_objects():
        kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize("place", [("spec", "replica"), ("spec", "template", "spec", "securityContext", "runAsNonroot")])
def test_a_misspelt_member_is_seen(place: tuple[str, ...]) -> None:
    broken = copy.deepcopy(workload("serve"))
    inner = broken
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, NEWEST, strict=True)
