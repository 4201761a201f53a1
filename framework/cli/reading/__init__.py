"""Payloads from outside: JSON texts and lines."""
