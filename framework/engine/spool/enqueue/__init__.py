"""The steps that store new jobs."""
