"""The only caller of the engine in a worker."""
