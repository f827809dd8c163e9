"""How the services talk: contract, server bootstrap, channels, errors, tensors on the wire, telemetry. No model, no torch at import."""

__version__ = "0.1.0"
