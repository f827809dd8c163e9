"""Networks of the codec: torch and this folder only."""
