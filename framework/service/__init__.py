"""What a service is written against, and what turns its declarations and payloads into jobs."""
