"""Functions that make foreign text safe to display and remove secrets from it."""
