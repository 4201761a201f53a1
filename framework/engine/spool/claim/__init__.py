"""Claiming jobs, and settling them."""
