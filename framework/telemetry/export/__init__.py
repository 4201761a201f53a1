"""The exporter process: from rings to a collector."""
