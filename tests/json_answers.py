"""A server's side of a small JSON API, for tests."""

import json
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any


class JsonAnswers(BaseHTTPRequestHandler):
    """Handles requests; subclasses say how."""

    protocol_version = "HTTP/1.1"

    def answer(self, status: int, content: Mapping[str, Any]) -> None:
        """Send all of an answer."""
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""
