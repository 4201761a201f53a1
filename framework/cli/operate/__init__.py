"""The commands that look at a store and act on it: queues, jobs, dead letters, bad files, and what runs."""
