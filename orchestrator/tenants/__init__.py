"""Tenants: who calls, what they may use, and that nobody sees what belongs to another."""
