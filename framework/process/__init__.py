"""What a process does with itself and its descendants, whatever work it has: its streams, its end, its orphans."""
