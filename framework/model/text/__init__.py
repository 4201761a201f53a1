"""Text that others wrote: made safe to look at, and without what is secret in it."""
