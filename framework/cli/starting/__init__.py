"""The commands that start a service: `worker new`, and the ways in which `worker run` is used while one is written."""
