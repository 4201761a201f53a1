"""The exporter process, which reads the rings and sends their telemetry to a collector."""
