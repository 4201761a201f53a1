"""Soft timeouts: how a run is interrupted, by the way it runs."""
