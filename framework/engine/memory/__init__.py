"""The engine in memory, for tests."""
