"""What every pod, and everything that selects pods, must keep to: checked on the files, and on what Kustomize makes of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml
from pydantic_settings import BaseSettings

from api.cli.ops import contents
from api.settings import Settings
from ledger.kafka.settings import KafkaSettings

Object = dict[str, Any]

KINDS: tuple[type[BaseSettings], ...] = (Settings, KafkaSettings)
WORKLOADS = ("StatefulSet", "Deployment", "DaemonSet", "Job")
# Not of Kubernetes itself: their schemas are their operators'.
OF_OPERATORS = ("monitoring.coreos.com/", "kafka.strimzi.io/", "kustomize.config.k8s.io/")


def _setting(kind: type[BaseSettings], name: str) -> str:
    return f"{kind.model_config.get('env_prefix') or ''}{name}".upper()


SETTINGS = frozenset(_setting(kind, name) for kind in KINDS for name in kind.model_fields)
SECRETS = frozenset(
    _setting(kind, name) for kind in KINDS for name, field in kind.model_fields.items() if "SecretStr" in str(field.annotation)
)


def objects(under: str) -> list[Object]:
    """All objects in the YAML files below a folder of the export, kustomizations included."""
    files = (text for name, text in contents().items() if name.startswith(under) and name.endswith(".yaml"))
    return [one for text in files for one in yaml.safe_load_all(text) if one]


def of_kind(all_objects: Iterable[Object], *kinds: str) -> list[Object]:
    return [one for one in all_objects if one["kind"] in kinds]


def named(all_objects: Iterable[Object], kind: str, name: str) -> Object:
    (one,) = [one for one in of_kind(all_objects, kind) if one["metadata"]["name"] == name]
    return one


def containers(pod: Mapping[str, Any]) -> list[Object]:
    return [*pod.get("initContainers", ()), *pod["containers"]]


def literals(kustomization: Mapping[str, Any]) -> dict[str, str]:
    """The settings in the generators of a kustomization."""
    generators = kustomization.get("configMapGenerator", ())
    return dict(pair.split("=", 1) for one in generators for pair in one.get("literals", ()))


# ---- pods -----------------------------------------------------------------------------------------------------------


def wrong_workload(workload: Mapping[str, Any]) -> list[str]:
    """What is wrong with a whole StatefulSet, or the like."""
    pod = workload["spec"]["template"]["spec"]
    claims = {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", ())}
    volumes = {volume["name"] for volume in pod.get("volumes", ())} | claims
    mounted = {mount["name"] for one in containers(pod) for mount in one.get("volumeMounts", ())}
    wrong = [*_wrong_rights(pod), *(f"no volume is {name}" for name in mounted - volumes)]
    wrong += [f"volume {name} is not used" for name in volumes - mounted]
    wrong += [f"volume {v['name']} is of the node" for v in pod.get("volumes", ()) if "hostPath" in v]
    for container in containers(pod):
        wrong += [f"{container['name']}: {fault}" for fault in _wrong_container(container)]
    spread = {one["topologyKey"] for one in pod.get("topologySpreadConstraints", ())}
    if spread != {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}:
        wrong.append("not spread over zones and nodes")
    return wrong


def _wrong_rights(pod: Mapping[str, Any]) -> Iterator[str]:
    rights = pod.get("securityContext", {})
    if rights.get("runAsNonRoot") is not True or rights.get("runAsUser", 0) < 10_000:
        yield "may be root"
    if rights.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "no seccomp profile"
    if pod.get("automountServiceAccountToken") is not False:
        yield "has a token of the Kubernetes API"
    if pod.get("enableServiceLinks") is not False:
        yield "gets variables named after Services, which may be settings"
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(name):
            yield f"{name} is set"


def _wrong_container(container: Mapping[str, Any]) -> Iterator[str]:
    rights = container.get("securityContext", {})
    if rights.get("allowPrivilegeEscalation") is not False or rights.get("privileged"):
        yield "may get more rights"
    if rights.get("readOnlyRootFilesystem") is not True:
        yield "may write into its image"
    if rights.get("capabilities") != {"drop": ["ALL"]}:
        yield "has capabilities"
    if wrong_image(container["image"]):
        yield f"image {container['image']} has no version"
    resources = container.get("resources", {})
    if not {"cpu", "memory", "ephemeral-storage"} <= set(resources.get("requests", {})):
        yield "does not say what it needs"
    if not {"memory", "ephemeral-storage"} <= set(resources.get("limits", {})):
        yield "has no limits"
    if "cpu" in resources.get("limits", {}):
        yield "is throttled: a limit of CPU costs it its session with Kafka"
    yield from _wrong_probes(container)
    yield from wrong_variables(container.get("env", ()))


def _wrong_probes(container: Mapping[str, Any]) -> Iterator[str]:
    ports = {port["name"] for port in container.get("ports", ())}
    for probe, path in (("startupProbe", "/live"), ("livenessProbe", "/live"), ("readinessProbe", "/ready")):
        asked = container.get(probe, {}).get("httpGet", {})
        if asked.get("path") != path or asked.get("port") not in ports:
            yield f"{probe} does not ask {path} at a port of it"


def wrong_image(image: str) -> bool:
    """Whether an image has neither a digest nor a version, or `latest`."""
    tag = re.search(r":([\w.-]+)$", image)
    return "@sha256:" not in image and (tag is None or tag[1] == "latest")


def wrong_variables(env: Iterable[Mapping[str, Any]]) -> list[str]:
    """Variables that are no settings, and secrets whose value is there instead of a reference."""
    wrong = []
    for variable in env:
        name = variable["name"]
        if name not in SETTINGS:
            wrong.append(f"{name} is no setting")
        if name in SECRETS and "secretKeyRef" not in variable.get("valueFrom", {}):
            wrong.append(f"{name} is not a reference to a Secret")
    return wrong


def wrong_literals(settings: Mapping[str, str]) -> list[str]:
    """The same for the settings of a ConfigMap."""
    wrong = [f"{name} is no setting" for name in settings if name not in SETTINGS]
    return wrong + [f"{name} is a secret" for name in settings if name in SECRETS]


# ---- what selects pods ----------------------------------------------------------------------------------------------


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return selector.items() <= labels.items()


def selected(selector: Mapping[str, str], all_objects: Iterable[Object]) -> list[str]:
    """Names of the workloads whose pods have these labels."""
    return [
        one["metadata"]["name"]
        for one in of_kind(all_objects, *WORKLOADS)
        if matches(selector, one["spec"]["template"]["metadata"]["labels"])
    ]


def wrong_selectors(all_objects: list[Object]) -> list[str]:
    """Services, budgets and policies that select no pod, and ports that no pod or Service has."""
    wrong = []
    for one in of_kind(all_objects, "Service", "PodDisruptionBudget", "NetworkPolicy"):
        spec, name = one["spec"], f"{one['kind']} {one['metadata']['name']}"
        selector = spec["selector"] if one["kind"] == "Service" else (spec.get("selector") or spec["podSelector"])["matchLabels"]
        pods = selected(selector, all_objects)
        wrong += [] if pods else [f"{name} selects nothing"]
        ports = {
            port["name"]
            for workload in of_kind(all_objects, *WORKLOADS)
            if workload["metadata"]["name"] in pods
            for container in containers(workload["spec"]["template"]["spec"])
            for port in container["ports"]
        }
        if one["kind"] == "Service":
            wrong += [f"{name}: no port {p['targetPort']}" for p in spec["ports"] if p["targetPort"] not in ports]
        for rule in spec.get("ingress", ()):
            wrong += [f"{name}: no port {p['port']}" for p in rule["ports"] if p["port"] not in ports]
    for one in of_kind(all_objects, "ServiceMonitor"):
        services = scraped(one, all_objects)
        names = {port["name"] for service in services for port in service["spec"]["ports"]}
        missing = {endpoint["port"] for endpoint in one["spec"]["endpoints"]} - names
        wrong += [f"ServiceMonitor {one['metadata']['name']}: no port {port}" for port in missing]
    return wrong


def scraped(monitor: Mapping[str, Any], all_objects: Iterable[Object]) -> list[Object]:
    """The Services that a ServiceMonitor selects."""
    selector = monitor["spec"]["selector"]["matchLabels"]
    return [one for one in of_kind(all_objects, "Service") if matches(selector, one["metadata"].get("labels", {}))]
