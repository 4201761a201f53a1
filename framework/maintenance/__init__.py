"""The maintenance process: it promotes due jobs, rescues, expires, observes, serves health; it outlives the workers."""

from framework.maintenance.abandoned import AbandonedLeases
from framework.maintenance.burst import Burst
from framework.maintenance.declaring import Declaring
from framework.maintenance.health import HealthServer
from framework.maintenance.loop import LONGEST_PAUSE, Maintenance
from framework.process.headless import OtherTrees

__all__ = ["LONGEST_PAUSE", "AbandonedLeases", "Burst", "Declaring", "HealthServer", "Maintenance", "OtherTrees"]
