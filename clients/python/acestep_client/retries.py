"""What gRPC itself tries again, as a service config. A server's grpc-retry-pushback-ms takes the place of the waits given here."""

import json
from typing import Any

_EVERY_METHOD = (
    "acestep_rpc.v1.MusicService",
    "acestep_rpc.v1.LyricsService",
    "acestep_rpc.v1.AdapterService",
    "google.longrunning.Operations",
)
_POLICY: dict[str, Any] = {
    "maxAttempts": 5,  # gRPC allows no more
    "initialBackoff": "0.2s",
    "maxBackoff": "5s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["RESOURCE_EXHAUSTED", "UNAVAILABLE"],
}

CHANNEL_OPTIONS = (
    ("grpc.enable_retries", 1),
    (
        "grpc.service_config",
        json.dumps({"methodConfig": [{"name": [{"service": service} for service in _EVERY_METHOD], "retryPolicy": _POLICY}]}),
    ),
)
"""A stream is tried again while nothing has arrived. Submissions have a request id, uploads are named by content: nothing is done twice."""

NO_RETRIES = (("grpc.enable_retries", 0),)
