"""The housekeeping process: makes due, rescues, expires, observes, serves health; the last to leave."""

from framework.maintenance.health import HealthServer
from framework.maintenance.loop import Maintenance

__all__ = ["HealthServer", "Maintenance"]
