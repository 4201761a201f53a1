"""Adapters for web frameworks. Each imports its framework, and of this library only the public names."""
