"""The acestep command."""
