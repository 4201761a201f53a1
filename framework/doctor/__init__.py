"""`worker doctor`: whether the environment lets telemetry out."""
