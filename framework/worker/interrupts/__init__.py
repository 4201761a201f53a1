"""Soft timeouts: how a run is interrupted, for each way to run handlers."""
