"""Telemetry through the OpenTelemetry SDK."""
