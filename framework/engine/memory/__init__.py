"""The engine that keeps jobs in memory, for tests."""
