"""One suite that every engine passes: `framework.broker`'s docstrings, held to."""
