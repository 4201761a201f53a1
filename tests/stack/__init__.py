"""The observability stack on the real programs: `make stack-test`. Not collected by pytest: it builds them with Go."""
