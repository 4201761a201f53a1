"""Housekeeping of queues, rescue of abandoned leases, and the views of jobs that people see."""
