"""The systems as the harness sees them: servers, commands, configuration. Imports no peer."""
