"""Web frameworks with real servers, and Django: `framework/contrib`."""
