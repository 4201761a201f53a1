"""One suite that every engine passes: `framework.engine.port`'s docstrings, held to."""
