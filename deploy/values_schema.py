"""Write deploy/helm/acestep/values.schema.json: python deploy/values_schema.py. Run it after a change of values.yaml or of a settings.py.

Fields and types come from values.yaml itself, what a service can be told from its settings. What is not there is refused as a typo.
"""

import dataclasses
import json
import sys
import types
import typing
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import diffusion_svc.settings  # noqa: E402
import encoder_svc.settings  # noqa: E402
import orchestrator.settings  # noqa: E402
import vae_svc.settings  # noqa: E402
from acestep_rpc.settings import ServerSettings  # noqa: E402

CHART = ROOT / "deploy" / "helm" / "acestep"
SETTINGS: dict[str, type[ServerSettings]] = {
    "orchestrator": orchestrator.settings.Settings,
    "encoder": encoder_svc.settings.Settings,
    "diffusion": diffusion_svc.settings.Settings,
    "vae": vae_svc.settings.Settings,
}
_SERVER = {
    "host": "listen",
    "port": "ports.grpc",
    "metrics_port": "ports.metrics",
    "drain_seconds": "drainSeconds",
    "tls_cert": "tls",
    "tls_key": "tls",
    "tls_client_ca": "tls",
    "tls_allowed_clients": "tls.stages.clientName",
}
_MODEL = {"checkpoint": "weights", "adapters": "adapters"}
OWN: dict[str, dict[str, str]] = {
    "orchestrator": _SERVER
    | _MODEL
    | {
        "encoder": "orchestrator.targets",
        "diffusion": "orchestrator.targets",
        "vae": "orchestrator.targets",
        "embedded": "mode",
        "data": "orchestrator.data",
        "store": "orchestrator.store",
        "database_url": "orchestrator.database",
        "webhook_secret": "orchestrator.webhook",
        "tenants": "orchestrator.tenants",
        "pod_deletion_cost": "podDeletionCost",
        "stage_tls_ca": "tls.stages",
        "stage_tls_cert": "tls.stages",
        "stage_tls_key": "tls.stages",
        "stage_tls_server_name": "tls.stages.serverName",
    },
    "encoder": _SERVER | _MODEL,
    "diffusion": _SERVER | _MODEL,
    "vae": _SERVER | {"checkpoint": "weights"},
}
"""Settings that have values of their own; all others are under `settings` of their service."""
_NOT_OF_PUBLIC_SERVERS = {"tls_client_ca", "tls_allowed_clients"}  # of the orchestrator's callers: under `settings`

ANY_OBJECT: dict[str, Any] = {"type": "object"}
STRINGS: dict[str, Any] = {"type": "array", "items": {"type": "string"}}
OBJECTS: dict[str, Any] = {"type": "array", "items": ANY_OBJECT}
WORDS: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
AT_LEAST_ONE: dict[str, Any] = {"type": "integer", "minimum": 1}
PORT: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": 65535}
ISSUER_KIND: dict[str, Any] = {"enum": ["Issuer", "ClusterIssuer"]}
RESOURCES: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {name: {"type": "object", "additionalProperties": {"type": ["string", "number"]}} for name in ("requests", "limits")},
}
POLICY: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "stabilizationWindowSeconds": {"type": "integer", "minimum": 0, "maximum": 3600},
        "selectPolicy": {"enum": ["Max", "Min", "Disabled"]},
        "policies": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["type", "value", "periodSeconds"],
                "properties": {"type": {"enum": ["Pods", "Percent"]}, "value": AT_LEAST_ONE, "periodSeconds": AT_LEAST_ONE},
            },
        },
    },
}

BY_NAME: dict[str, dict[str, Any]] = {
    "args": STRINGS, "command": STRINGS, "extraArgs": STRINGS, "pullSecrets": STRINGS, "products": STRINGS, "dnsNames": STRINGS,
    "hostnames": STRINGS, "accessModes": STRINGS, "drop": STRINGS,
    "tolerations": OBJECTS, "topologySpread": OBJECTS, "parentRefs": OBJECTS, "clientsFrom": OBJECTS, "metricsFrom": OBJECTS,
    "extraEgress": OBJECTS, "envFrom": OBJECTS,
    "env": WORDS, "nodeSelector": WORDS, "podAnnotations": WORDS, "annotations": WORDS, "matchLabels": WORDS,
    "affinity": ANY_OBJECT, "podSecurityContext": ANY_OBJECT, "securityContext": ANY_OBJECT,
    "httpsPorts": {"type": "array", "items": PORT}, "databasePorts": {"type": "array", "items": PORT},
    "resources": RESOURCES, "scaleUp": POLICY, "scaleDown": POLICY,
    "grpc": PORT, "metrics": PORT,
    "maxReplicas": AT_LEAST_ONE, "periodSeconds": AT_LEAST_ONE, "timeoutSeconds": AT_LEAST_ONE, "livenessFailures": AT_LEAST_ONE,
    "startupSeconds": AT_LEAST_ONE, "pollingIntervalSeconds": AT_LEAST_ONE,
    "targetBacklogSeconds": {"type": "number", "exclusiveMinimum": 0},
    "maxSurge": {"type": ["integer", "string"]}, "maxUnavailable": {"type": ["integer", "string"]},
}  # fmt: skip
"""Of fields wherever they stand."""
BY_PATH: dict[str, dict[str, Any]] = {
    "mode": {"enum": ["stages", "embedded"]},
    "image.variant": {"enum": ["cuda", "cpu"]},
    "image.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "probes.type": {"enum": ["auto", "grpc", "http"]},
    "weights.source": {"enum": ["pvc", "hostPath", "image", "package"]},
    "weights.image": {"type": "string", "pattern": "^$|@sha256:[0-9a-f]{64}$"},
    "orchestrator.discovery": {"enum": ["kubernetes", "dns"]},
    "orchestrator.service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "autoscaling.engine": {"enum": ["hpa", "keda"]},
    "tls.stages.source": {"enum": ["certManager", "secrets"]},
    "tls.public.source": {"enum": ["certManager", "secrets"]},
    "tls.stages.issuer.kind": ISSUER_KIND,
    "tls.public.issuer.kind": ISSUER_KIND,
}


def camel_case(name: str) -> str:
    """The name of a setting in values."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def settings_below(service: str) -> list[str]:
    """Names of the settings that stand under `settings` of a service."""
    own = set(OWN[service]) - (_NOT_OF_PUBLIC_SERVERS if service == "orchestrator" else set())
    return [field.name for field in dataclasses.fields(SETTINGS[service]) if field.name not in own]


def settings_schema(service: str) -> dict[str, Any]:
    """Of `settings` of a service."""
    hints = typing.get_type_hints(SETTINGS[service])
    documented = {camel_case(name): _setting(hints[name]) for name in settings_below(service)}
    return {"type": "object", "additionalProperties": False, "properties": documented}


def _setting(kind: Any) -> dict[str, Any]:
    if isinstance(kind, types.UnionType):
        (kind,) = [option for option in typing.get_args(kind) if option is not type(None)]
    if typing.get_origin(kind) is tuple:
        return STRINGS
    return {"type": {bool: "boolean", int: "integer", float: "number"}.get(kind, "string")}


def schema(value: Any, path: str = "") -> dict[str, Any]:
    """Of a value that stands at a path of values.yaml."""
    *_, parent, name = ["", *path.split(".")]
    if name == "settings":
        return settings_schema(parent)
    if path in BY_PATH:
        return BY_PATH[path]
    if name in BY_NAME:
        return BY_NAME[name]
    match value:
        case bool():
            return {"type": "boolean"}
        case int():
            return COUNT
        case str():
            return {"type": "string"}
        case dict():
            fields = {key: schema(inner, f"{path}.{key}".removeprefix(".")) for key, inner in value.items()}
            return {"type": "object", "additionalProperties": False, "properties": fields}
    raise TypeError(f"values.yaml: {path} is {value!r}: say what it may be")


def whole() -> dict[str, Any]:
    """The schema of the chart's values."""
    found = schema(yaml.safe_load((CHART / "values.yaml").read_text()))
    found["properties"]["global"] = ANY_OBJECT  # Helm puts it there
    return {"$schema": "http://json-schema.org/draft-07/schema#"} | found


if __name__ == "__main__":
    (CHART / "values.schema.json").write_text(json.dumps(whole(), indent=1) + "\n")
