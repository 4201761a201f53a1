"""Telemetry that the OpenTelemetry SDK collects and sends."""
