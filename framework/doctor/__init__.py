"""The checks behind `worker doctor`, which tell whether the environment lets telemetry leave the process."""
