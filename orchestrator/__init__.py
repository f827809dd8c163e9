"""The public API: order, limits and defaults of a request. No torch, no model."""
