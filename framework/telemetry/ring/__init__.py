"""Telemetry that outlives its process: what a worker writes into its ring."""
