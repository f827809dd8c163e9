"""A stand-in for prometheus-adapter: external.metrics.k8s.io from a Prometheus, by the rules that an operator would give the adapter."""

import json
import re
import ssl
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.cluster.control_plane import ControlPlane
from tests.cluster.newer_api import aggregate, until_served
from tests.json_answers import JsonAnswers

_VERSION = "external.metrics.k8s.io/v1beta1"
_RESOURCE = {"name": "externalmetrics", "singularName": "", "namespaced": True, "kind": "ExternalMetricValueList", "verbs": ["get"]}


class ExternalMetrics(ThreadingHTTPServer):
    """The aggregated API server.

    Args:
        cluster: Asks it.
        prometheus: URL.
        rules: `rules.external` of the adapter's values.
    """

    daemon_threads = True

    def __init__(self, cluster: ControlPlane, prometheus: str, rules: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self._prometheus, self._rules = prometheus, rules
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cluster.certificate.cert, cluster.certificate.key)
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)  # a thread's, not the acceptor's
        threading.Thread(target=self.serve_forever, name="external-metrics", daemon=True).start()
        aggregate(cluster, _VERSION, self.server_port)
        until_served(cluster, _VERSION)

    def values(self, namespace: str, metric: str, labels: Mapping[str, str]) -> list[dict[str, Any]]:
        """What the metric is now; empty: there is none."""
        query = expand(self._rules, namespace, metric, labels)
        if query is None:
            return []
        url = f"{self._prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            found = json.load(answer)["data"]["result"]
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return [
            {"metricName": metric, "metricLabels": one["metric"], "timestamp": stamp, "value": f"{round(float(one['value'][1]) * 1000)}m"}
            for one in found
        ]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A Prometheus that is away is no answer."""


def expand(rules: Sequence[Mapping[str, Any]], namespace: str, metric: str, labels: Mapping[str, str]) -> str | None:
    """The query of a metric, as the adapter makes it; None: no rule has it."""
    for rule in rules:
        series = re.match(r"\w+", rule["seriesQuery"])
        assert series is not None
        if rule.get("name", {}).get("as", series[0]) != metric:
            continue
        resources = rule.get("resources", {})
        own = {}
        if resources.get("namespaced", True):
            own = {name: namespace for name, one in resources.get("overrides", {}).items() if one["resource"] == "namespace"}
        matchers = ",".join(f'{name}="{value}"' for name, value in (own | dict(labels)).items())
        query: str = rule["metricsQuery"]
        for word, value in {"Series": series[0], "LabelMatchers": matchers, "GroupBy": ",".join(own)}.items():
            query = query.replace(f"<<.{word}>>", value)
        return query
    return None


class _Answer(JsonAnswers):
    server: ExternalMetrics

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        names = parts.path.strip("/").split("/")
        if names[0] != "apis":
            self.answer(404, {})
        elif len(names) < 5:
            self.answer(200, {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": _VERSION, "resources": [_RESOURCE]})
        else:
            selector = parse_qs(parts.query).get("labelSelector", [""])[0]
            labels = dict(one.split("=", 1) for one in selector.split(",") if one)
            items = self.server.values(names[4], names[5], labels)
            self.answer(200, {"kind": "ExternalMetricValueList", "apiVersion": _VERSION, "metadata": {}, "items": items})
