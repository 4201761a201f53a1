"""Process supervision that knows no job: streams, signals, shared memory, ends of processes, and orphan processes."""
