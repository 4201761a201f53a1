"""Housekeeping, rescue, and what people look at."""
