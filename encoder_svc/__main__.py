"""Serve the encoder: settings, weights, gRPC."""

import os

from acestep_rpc import server
from acestep_rpc.settings import from_environment
from encoder_svc.servicer import load
from encoder_svc.settings import PREFIX, Settings


def main() -> None:
    """Run until SIGTERM."""
    settings = from_environment(Settings, PREFIX, os.environ)
    server.run("encoder", settings, lambda: load(settings))


if __name__ == "__main__":
    main()
