"""The housekeeping process: makes due, rescues, expires, observes, serves health; the last to leave."""

from framework.maintenance.abandoned import AbandonedLeases
from framework.maintenance.health import HealthServer
from framework.maintenance.loop import TURN, Maintenance
from framework.process.headless import OtherTrees

__all__ = ["TURN", "AbandonedLeases", "HealthServer", "Maintenance", "OtherTrees"]
