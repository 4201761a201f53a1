"""What the command line and pages share: Prometheus rules from declarations."""
