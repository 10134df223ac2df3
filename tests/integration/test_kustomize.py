"""Kustomize builds the overlays from an export; the result keeps the policy, and kubeconform finds it valid."""

from __future__ import annotations

import json
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from api.cli.ops import contents
from tests.support.alert_drills import DRILLS
from tests.support.go_programs import on_path_or_built
from tests.support.kubernetes_policy import Object, literals, named, objects, of_kind, wrong_selectors, wrong_workload

pytestmark = [pytest.mark.kubeconform, pytest.mark.timeout(4_000)]  # the first one builds both programs

KUSTOMIZE, KUSTOMIZE_VERSION = "sigs.k8s.io/kustomize/kustomize/v5", "v5.8.2"
KUBECONFORM, KUBECONFORM_VERSION = "github.com/yannh/kubeconform", "v0.7.0"
OVERLAYS = ("dev", "production")
VERSION = "1.37.0"
SCHEMAS = (
    "configmap-v1.json",
    "namespace-v1.json",
    "networkpolicy-networking-v1.json",
    "poddisruptionbudget-policy-v1.json",
    "service-v1.json",
    "serviceaccount-v1.json",
    "statefulset-apps-v1.json",
)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ops")
    for name, text in contents().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    return folder


@pytest.fixture(scope="module", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest, export: Path) -> tuple[str, str]:
    """(name, YAML that Kustomize makes of it)."""
    program = on_path_or_built("kustomize", KUSTOMIZE, KUSTOMIZE, KUSTOMIZE_VERSION, "kubeconform")
    command = [str(program), "build", str(export / "kubernetes/overlays" / request.param)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return request.param, done.stdout


def objects_of(text: str) -> list[Object]:
    return [one for one in yaml.safe_load_all(text) if one]


def test_what_kustomize_makes_keeps_the_policy(overlay: tuple[str, str]) -> None:
    built = objects_of(overlay[1])
    workloads = of_kind(built, "StatefulSet")
    assert [one["metadata"]["name"] for one in workloads] == ["commands", "serve"]
    assert [fault for one in workloads for fault in wrong_workload(one)] == []
    assert wrong_selectors(built) == []
    namespaces = {one["metadata"].get("namespace") for one in built if one["kind"] != "Namespace"}
    assert namespaces == {one["metadata"]["name"] for one in of_kind(built, "Namespace")}


def test_each_pod_gets_the_settings_of_base_and_overlay(overlay: tuple[str, str]) -> None:
    name, text = overlay
    (values,) = [
        one for one in of_kind(objects_of(text), "ConfigMap") if one["metadata"]["name"].startswith("order-ledger-settings")
    ]
    (base,) = of_kind(objects("kubernetes/base/"), "Kustomization")
    (own,) = of_kind(objects(f"kubernetes/overlays/{name}/"), "Kustomization")
    assert values["data"] == literals(base) | literals(own)
    for one in of_kind(objects_of(text), "StatefulSet"):
        (container,) = one["spec"]["template"]["spec"]["containers"]
        assert container["envFrom"] == [{"configMapRef": {"name": values["metadata"]["name"]}}]


def test_each_overlay_is_what_its_name_says(overlay: tuple[str, str]) -> None:
    name, text = overlay
    built = objects_of(text)
    commands = named(built, "StatefulSet", "commands")["spec"]
    if name == "dev":
        assert commands["replicas"] == 1
        assert commands.get("volumeClaimTemplates", []) == []
        assert len(of_kind(built, "Kafka", "KafkaNodePool")) == 2
        assert of_kind(built, "ServiceMonitor", "PrometheusRule") == []
        return
    assert commands["replicas"] == 3
    assert len(of_kind(built, "ServiceMonitor")) == 2
    (rule,) = of_kind(built, "PrometheusRule")
    assert [one["alert"] for group in rule["spec"]["groups"] for one in group["rules"]] == list(DRILLS)
    spread = commands["template"]["spec"]["topologySpreadConstraints"]
    assert {one["topologyKey"]: one["whenUnsatisfiable"] for one in spread}["kubernetes.io/hostname"] == "DoNotSchedule"
    assert named(built, "ConfigMap", "order-ledger-dashboard")["metadata"]["labels"]["grafana_dashboard"] == "1"


@pytest.fixture(scope="module")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The schemas of the kinds that are used, each whole: those of kubernetes-validate refer to a file of definitions."""
    source = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{VERSION}-local-strict"
    outside = '"/api/_definitions.json#/'
    definitions = json.loads((source / "_definitions.json").read_text("utf-8").replace(outside, '"#/'))
    folder = tmp_path_factory.mktemp("schemas")
    for name in SCHEMAS:
        schema = json.loads((source / name).read_text("utf-8").replace(outside, '"#/'))
        (folder / name).write_text(json.dumps(schema | definitions), "utf-8")
    return folder


def kubeconform(schemas: Path, text: str) -> tuple[int, str]:
    program = on_path_or_built("kubeconform", f"{KUBECONFORM}/cmd/kubeconform", KUBECONFORM, KUBECONFORM_VERSION, "kubeconform")
    # Objects of operators have no schema there.
    command = [str(program), "-strict", "-ignore-missing-schemas", "-summary", "-kubernetes-version", VERSION]
    command += ["-schema-location", f"{schemas}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=600, check=False)
    return done.returncode, done.stdout + done.stderr


def test_kubeconform_finds_every_object_valid(overlay: tuple[str, str], schemas: Path) -> None:
    code, said = kubeconform(schemas, overlay[1])
    assert code == 0, said
    assert "Invalid: 0, Errors: 0" in said
    built = objects_of(overlay[1])
    unknown = [one for one in built if one["apiVersion"].startswith(("monitoring.coreos.com/", "kafka.strimzi.io/"))]
    assert f"Valid: {len(built) - len(unknown)}" in said
    assert f"Skipped: {len(unknown)}" in said


def test_kubeconform_finds_a_misspelt_member(overlay: tuple[str, str], schemas: Path) -> None:
    code, said = kubeconform(schemas, overlay[1].replace("readOnlyRootFilesystem", "readOnlyRootFileSystem"))
    assert code != 0
    assert "readOnlyRootFileSystem" in said
