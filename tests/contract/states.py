"""What has become of the only job of `jobs`, whose dead letters go to `letters`: each brings it there."""

from __future__ import annotations

from tests.support.settling import rest, retry

from .engines import Owner
from .helpers import FAR, a_failure, bury_one, take_one


def ready(broker: Owner) -> None:
    pass


def claimed(broker: Owner) -> None:
    take_one(broker)


def waiting_for_its_retry(broker: Owner) -> None:
    lease = take_one(broker)
    retry(broker, lease, delay=FAR, failure=a_failure(lease))


def released(broker: Owner) -> None:
    broker.release([take_one(broker)])


def letter(broker: Owner) -> None:
    bury_one(broker)


def letter_in_flight(broker: Owner) -> None:
    bury_one(broker)
    take_one(broker, "letters")


def resting(broker: Owner) -> None:
    bury_one(broker)
    rest(broker, take_one(broker, "letters"))
