"""API versions that Kubernetes got after 1.20, served through the real aggregation layer by translation into those that 1.20 has.

The API server authenticates and authorises each request, as it does all others, before it sends it here; RBAC knows groups, not versions.
What differs between the versions is translated; the rest has the same fields.
"""

import contextlib
import http.client
import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from kubernetes import client

from tests.cluster.control_plane import ControlPlane

OLDER = {
    "discovery.k8s.io/v1": "discovery.k8s.io/v1beta1",  # endpoints: nodeName for topology
    "autoscaling/v2": "autoscaling/v2beta2",
}
_NOT_PASSED_ON = {"connection", "transfer-encoding", "content-length", "host", "keep-alive", "accept-encoding", "authorization", "accept"}
"""Headers of a hop, who asks, and in what form: only JSON is translated, while Kubernetes' own controllers ask for protobuf."""


class NewerApi(ThreadingHTTPServer):
    """The aggregated API server of all these versions."""

    daemon_threads = True

    def __init__(self, cluster: ControlPlane) -> None:
        super().__init__(("127.0.0.1", 0), _Translate)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cluster.certificate.cert, cluster.certificate.key)
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)  # a thread's, not the acceptor's
        self.upstream = urlsplit(cluster.url)
        self.context = ssl.create_default_context(cafile=str(cluster.ca))
        self.token = f"Bearer {cluster.token}"
        threading.Thread(target=self.serve_forever, name="newer-api", daemon=True).start()
        for version in OLDER:
            aggregate(cluster, version, self.server_port)
        for version in OLDER:
            until_served(cluster, version)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections break whenever a watch ends."""


def aggregate(cluster: ControlPlane, version: str, port: int) -> None:
    """Let the API server send the requests of a group's version to a port of this machine."""
    group, _, number = version.partition("/")
    name = group.replace(".", "-") + "-" + number
    service = {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]}
    client.CoreV1Api(cluster.api).create_namespaced_service("kube-system", {"metadata": {"name": name}, "spec": service})
    client.ApiregistrationV1Api(cluster.api).create_api_service(
        {
            "metadata": {"name": f"{number}.{group}"},
            "spec": {
                "group": group,
                "version": number,
                "groupPriorityMinimum": 100,
                "versionPriority": 1,
                "insecureSkipTLSVerify": True,
                "service": {"namespace": "kube-system", "name": name, "port": port},
            },
        }
    )


def until_served(cluster: ControlPlane, version: str) -> None:
    """Wait until the API server sends requests on: it merges its OpenAPI documents first, which takes seconds."""
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(client.ApiException):
            client.CustomObjectsApi(cluster.api).get_api_resources(*version.split("/"))
            return
        assert time.monotonic() < deadline, f"the API server does not serve {version}"
        time.sleep(0.1)


class _Translate(BaseHTTPRequestHandler):
    server: NewerApi
    protocol_version = "HTTP/1.1"

    def _forward(self) -> None:
        version = next((one for one in OLDER if self.path.startswith(f"/apis/{one}")), None)
        if version is None:  # the aggregation layer asks for the OpenAPI document, which there is none of
            self._answer(404, b"{}", "application/json")
            return
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {
            name: value
            for name, value in self.headers.items()
            if name.lower() not in _NOT_PASSED_ON and not name.lower().startswith("x-remote")
        }
        headers |= {"authorization": self.server.token, "accept": "application/json"}
        upstream = http.client.HTTPSConnection(self.server.upstream.netloc, context=self.server.context)
        try:
            path = self.path.replace(version, OLDER[version], 1)
            upstream.request(self.command, path, body.replace(version.encode(), OLDER[version].encode()) or None, headers)
            response = upstream.getresponse()
            kind = response.headers.get("content-type", "application/json")
            if "watch=" not in self.path or response.status != 200:
                self._answer(response.status, _newer(response.read(), version), kind)
                return
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            while line := response.readline():
                line = _newer(line, version)
                self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
        except (OSError, http.client.HTTPException):
            self.close_connection = True
        finally:
            upstream.close()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _forward  # noqa: N815  # names of http.server

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


def _newer(body: bytes, version: str) -> bytes:
    body = body.replace(OLDER[version].encode(), version.encode())
    if version != "discovery.k8s.io/v1" or b'"topology"' not in body:
        return body
    answer = json.loads(body)
    pieces = [answer["object"]] if "object" in answer else answer.get("items", [answer])
    for endpoint in (endpoint for piece in pieces for endpoint in piece.get("endpoints") or ()):
        topology = endpoint.pop("topology", {})
        endpoint |= {"nodeName": topology["kubernetes.io/hostname"]} if "kubernetes.io/hostname" in topology else {}
    return json.dumps(answer).encode() + b"\n"
