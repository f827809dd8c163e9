"""Serve the codec stage: python -m vae_svc."""

import os
import sys

from acestep_rpc.server import run
from acestep_rpc.settings import SettingsError, from_environment
from vae_svc.servicer import load
from vae_svc.settings import PREFIX, Settings


def main() -> None:
    """Read the settings and serve until a signal comes."""
    try:
        settings = from_environment(Settings, PREFIX, os.environ)
    except SettingsError as error:
        sys.exit(str(error))
    run("vae", settings, lambda: load(settings))


if __name__ == "__main__":
    main()
