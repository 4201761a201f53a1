"""Outcomes: what an exception says about itself, and how each is settled."""

from __future__ import annotations

import pytest

from framework.engine.port import VERBS, open_engine
from framework.model.errors import (
    EngineUnavailable,
    EnqueueError,
    EnqueueUncertain,
    LeaseLost,
    SettingsError,
    WorkerError,
)
from framework.model.job import Failure, Job, Lease, span_id_of, trace_id_of
from framework.model.outcome import Kind, Outcome, fail, reason_of
from framework.model.retry import RetryPolicy
from framework.model.text.exceptions import describe, error_type
from tests.unit.helpers import a_job, a_lease

FAILURE = Failure(1, "error", "x")


def test_every_kind_has_a_verb() -> None:
    assert set(VERBS) == set(Kind) - {Kind.LEASE_LOST}, "which is not settled"


@pytest.mark.parametrize("url", ["", "x", "redis://localhost", "/var/spool", "Spool"])
def test_unknown_engines(url: str) -> None:
    said = r"^WORKER_ENGINE_URL=.*: (no engine .*; there are|this is no URL .* with one of) spool:, memory:"
    with pytest.raises(SettingsError, match=said):
        open_engine(url, incarnation="a")


def test_a_path_alone_is_taken_for_what_it_is_meant_to_be() -> None:
    with pytest.raises(SettingsError, match=r"did you mean spool:/var/spool\?$"):
        open_engine("/var/spool", incarnation="a")


def test_engines_are_found_by_scheme() -> None:
    broker = open_engine("memory:", incarnation="a")
    assert broker.features.system == "memory"
    broker.close()


def test_policy_used_up() -> None:
    policy = RetryPolicy(max_retries=1, first_delay=5, jitter=False)
    assert fail(Failure(1, "error", ""), policy) == Outcome(Kind.RETRIED, 5.0, Failure(1, "error", ""))
    assert fail(Failure(2, "error", ""), policy).kind == Kind.DEAD_LETTERED
    assert fail(Failure(1, "error", ""), policy, final=True).kind == Kind.DEAD_LETTERED
    assert fail(Failure(1, "error", ""), policy, delay=0).delay == 0
    assert fail(Failure(1, "error", ""), RetryPolicy(max_retries=0)).kind == Kind.DEAD_LETTERED


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def test_describe_never_raises() -> None:
    assert describe(ValueError("why")) == ("why", "ValueError: why\n")
    assert describe(KeyError())[0] == "KeyError"
    assert describe(Mute())[0] == "Mute (its __str__ failed)"
    message, trace = describe(raised(ValueError("x" * 5000)))
    assert len(message) == 1000
    assert len(trace) <= 2000
    assert "raise error" in trace  # the stack, not only the end of the message
    message, trace = describe(OSError("file \udcff"))
    assert (message, trace) == ("file ?", "OSError: file ?\n")


def test_reasons_and_types() -> None:
    assert reason_of(ValueError()) == "error"
    assert error_type(ValueError()) == "ValueError"
    assert error_type(Mute()) == "tests.unit.test_outcome.Mute"


def test_errors_carry_what_callers_need() -> None:
    uncertain = EnqueueUncertain("x", job_id="j", enqueued=["a"])
    assert (uncertain.job_id, uncertain.enqueued, EnqueueError("x").enqueued) == ("j", ("a",), ())
    assert isinstance(uncertain, WorkerError)
    leases = [a_lease(job_id="a"), a_lease(job_id="b")]
    lost = LeaseLost(leases)
    assert (str(lost), lost.job_ids, lost.leases) == ("the claim was lost: a, b", ("a", "b"), tuple(leases))
    assert EngineUnavailable("x").unsettled == ()
    assert EngineUnavailable("x", unsettled=leases).unsettled == tuple(leases)


# --- the record -----------------------------------------------------------------------------------------------------


def test_eligible_at() -> None:
    assert a_job().eligible_at == 1000.0
    assert a_job(not_before=1005.0).eligible_at == 1005.0
    assert a_job(not_before=5.0).eligible_at == 1000.0


def test_a_letter_lies_elsewhere_than_at_home() -> None:
    assert a_lease(queue="dead", home="jobs").is_dead_letter
    assert not a_lease(queue="jobs").is_dead_letter


def test_derived_ids() -> None:
    """Pinned: a rescuer of another release must derive the same span id."""
    uid = bytes(range(16))
    assert span_id_of(uid, 1) == "8dc767983be1c0f0"
    assert trace_id_of(uid, 1) == "8f511a0b6ebffc62f77f3efb43da2a39"
    ids = {span_id_of(uid, delivery) for delivery in range(1, 100)} | {span_id_of(bytes(16), 1)}
    assert len(ids) == 100


def test_records_have_no_room_for_surprises() -> None:
    job = a_job()
    with pytest.raises(AttributeError):
        job.note = "not declared"  # type: ignore[attr-defined]
    assert not hasattr(job, "__dict__")
    assert Lease(job, "jobs", 1, 1, 0.0, token="a") == Lease(job, "jobs", 1, 1, 0.0, token="b")
    assert isinstance(job, Job)
