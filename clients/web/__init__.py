"""The web page: a client of the orchestrator like any other. It holds no model and imports no torch."""
