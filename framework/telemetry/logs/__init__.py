"""Log lines: rendered, written, and sent."""
