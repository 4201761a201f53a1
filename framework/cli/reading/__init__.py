"""The reading of payloads that `worker enqueue` gets: JSON texts and JSON lines."""
