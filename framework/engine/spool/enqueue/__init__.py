"""Storing jobs."""
