"""Networks of the encoder stage: torch and this folder only."""
