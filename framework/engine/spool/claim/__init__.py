"""The consumer side of a queue: claiming jobs, promoting due jobs and settling leases."""
