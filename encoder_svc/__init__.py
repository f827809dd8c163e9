"""Prompt, tags and lyrics to conditioning: what runs once per request."""
