"""Log lines: how they are rendered, written and sent."""
