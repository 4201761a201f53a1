"""The classes that services use, and the code that turns declarations and payloads into jobs."""
