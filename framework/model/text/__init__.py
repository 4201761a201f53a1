"""Functions that make foreign text, and what foreign exceptions say, safe to display, and remove secrets from it."""
