"""The parts of a process tree, put together for `worker run`, and the producer of any process (`connecting`)."""
