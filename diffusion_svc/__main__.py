"""Serve the diffusion stage: python -m diffusion_svc."""

import os
import sys

from acestep_rpc.server import run
from acestep_rpc.settings import SettingsError, from_environment
from diffusion_svc.servicer import load
from diffusion_svc.settings import PREFIX, Settings


def main() -> None:
    """Read the settings and serve until a signal comes."""
    try:
        settings = from_environment(Settings, PREFIX, os.environ)
    except SettingsError as error:
        sys.exit(str(error))
    run("diffusion", settings, lambda: load(settings))


if __name__ == "__main__":
    main()
