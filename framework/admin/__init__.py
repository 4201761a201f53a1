"""The model that the command line and pages share: Prometheus rules made from a service's declarations."""
