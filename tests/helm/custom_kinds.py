"""Write custom_kinds.json: JSON schemas of the kinds of KEDA, the Prometheus operator, cert-manager and the Gateway API, closed: no field
may be unknown. Run by hand when a newer version of them is wanted, in an environment of its own:

    pip install cloudcoil==0.6.0 cloudcoil-models-keda==2.16.1.0 cloudcoil-models-prometheus-operator==0.80.1.0 \\
        "cloudcoil-models-cert-manager==1.17.1.0" && python tests/helm/custom_kinds.py

Those packages are made from the operators' own CustomResourceDefinitions. There is none for the Gateway API: of GRPCRoute the fields that
the chart has are written down here, after version 1.2 of its definition.
"""

import json
from pathlib import Path
from typing import Any

Schema = dict[str, Any]

ANYTHING: Schema = {}
_KEPT = ("enum", "pattern", "minimum", "maximum", "minLength", "minItems")
_METADATA: Schema = {"type": "object"}


def _object(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": list(required)}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


_TEXT: Schema = {"type": "string"}
GRPC_ROUTE = _object(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"enum": ["gateway.networking.k8s.io/v1"]},
    kind={"enum": ["GRPCRoute"]},
    metadata=_METADATA,
    spec=_object(
        (),
        parentRefs=_list(
            _object(("name",), group=_TEXT, kind=_TEXT, namespace=_TEXT, name=_TEXT, sectionName=_TEXT, port={"type": "integer"})
        ),
        hostnames=_list(_TEXT),
        rules=_list(
            _object(
                (),
                backendRefs=_list(
                    _object(
                        ("name",),
                        group=_TEXT,
                        kind=_TEXT,
                        namespace=_TEXT,
                        name=_TEXT,
                        port={"type": "integer"},
                        weight={"type": "integer"},
                    )
                ),
            )
        ),
    ),
)


def closed(node: Schema, definitions: dict[str, Schema], above: tuple[str, ...] = ()) -> Schema:
    """A schema without references in which listed fields are all that there may be. Types that contain themselves are left open."""
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        if name in ("ObjectMeta", "ListMeta"):
            return _METADATA
        return ANYTHING if name in above else closed(definitions[name], definitions, (*above, name))
    alternatives = [one for one in node.get("anyOf") or node.get("allOf") or node.get("oneOf") or () if one.get("type") != "null"]
    if alternatives:
        if {one.get("type") for one in alternatives} == {"integer", "string"}:
            return {"type": ["integer", "string"]}
        return closed(alternatives[0], definitions, above) if len(alternatives) == 1 else ANYTHING
    if "const" in node:
        return {"enum": [node["const"]]}
    kind = node.get("type")
    if kind is None:
        return ANYTHING
    found: Schema = {"type": kind} | {key: node[key] for key in _KEPT if key in node}
    if kind == "array":
        found["items"] = closed(node.get("items", {}), definitions, above)
    elif kind == "object" and node.get("properties"):
        found["properties"] = {name: closed(inner, definitions, above) for name, inner in node["properties"].items()}
        found["required"] = node.get("required", [])
        found["additionalProperties"] = False
    elif kind == "object" and isinstance(node.get("additionalProperties"), dict):
        found["additionalProperties"] = closed(node["additionalProperties"], definitions, above)
    return found


def main() -> None:
    """Ask the packages, write the file."""
    from cloudcoil.models.cert_manager.v1 import Certificate, Issuer
    from cloudcoil.models.keda.v1alpha1 import ScaledObject
    from cloudcoil.models.prometheus_operator.v1 import PodMonitor, PrometheusRule, ServiceMonitor

    kinds = {
        "keda.sh/v1alpha1": (ScaledObject,),
        "monitoring.coreos.com/v1": (PodMonitor, PrometheusRule, ServiceMonitor),
        "cert-manager.io/v1": (Certificate, Issuer),
    }
    schemas = {"gateway.networking.k8s.io/v1 GRPCRoute": GRPC_ROUTE}
    for version, models in kinds.items():
        for model in models:
            whole = model.model_json_schema(by_alias=True)
            schema = closed(whole, whole.get("$defs", {}))
            schema["properties"] |= {"apiVersion": {"enum": [version]}, "kind": {"enum": [model.__name__]}, "metadata": _METADATA}
            schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
            schemas[f"{version} {model.__name__}"] = schema
    (Path(__file__).parent / "custom_kinds.json").write_text(json.dumps(schemas, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
