"""Telemetry that outlives its process: a worker writes it into its ring, a file that the exporter reads."""
