"""Plain data that every package shares: jobs, outcomes, options, events and errors."""
