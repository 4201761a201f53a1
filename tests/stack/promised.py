"""The metrics that telemetry promises, as Prometheus writes them: by hand, so that a renamed one fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# On every series: from the resource, by Prometheus' own rules and by promote_resource_attributes.
RESOURCE: Final = {
    "job", "instance", "service_name", "service_namespace", "service_instance_id", "deployment_environment_name",
}  # fmt: skip
_COMPONENT: Final = {"otel_component_name", "otel_component_type"}
_EXPORTER: Final = _COMPONENT | {"server_address", "server_port"}
_QUEUE: Final = {"messaging_system_name", "messaging_destination_name"}
_OPERATION: Final = "messaging_operation_name"


@dataclass(frozen=True)
class Promise:
    """A metric.

    Attributes:
        labels: beside those of the resource, on every series; maybe: on some.
        histogram: `_bucket`, `_sum` and `_count`.
        rare: there are series only once something has happened that does not happen to the example.
        processes: how many of a tree may have series of it at most; 0 = a slot's queue decides.
    """

    labels: set[str]
    maybe: frozenset[str] = frozenset()
    histogram: bool = False
    processes: int = 0
    rare: bool = False


_ERROR: Final = frozenset({"error_type"})
PROMISED: Final = {
    "messaging_client_sent_messages_total": Promise(_QUEUE | {_OPERATION}),
    "messaging_client_consumed_messages_total": Promise(_QUEUE | {_OPERATION}),
    "messaging_client_operation_duration_seconds": Promise(
        _QUEUE | {_OPERATION, "messaging_operation_type"}, _ERROR, histogram=True
    ),
    "messaging_process_duration_seconds": Promise(_QUEUE | {_OPERATION}, _ERROR, histogram=True),
    "worker_queue_depth": Promise(_QUEUE | {"worker_queue_state"}, processes=1),
    "worker_queue_undeclared": Promise(_QUEUE, processes=1, rare=True),
    "worker_queue_paused": Promise(_QUEUE, processes=1),
    "worker_queue_held": Promise(_QUEUE, processes=1),
    "worker_queue_oldest_job_age_seconds": Promise(_QUEUE, processes=1),
    "worker_job_queue_wait_duration_seconds": Promise(_QUEUE, histogram=True),
    "worker_job_attempts_total": Promise(_QUEUE | {"worker_job_outcome"}),
    "worker_job_retries_total": Promise(_QUEUE, _ERROR),
    "worker_job_dead_letters_total": Promise(_QUEUE | {"worker_dead_letter_reason"}, _ERROR),
    "worker_job_unreadable_total": Promise(_QUEUE, rare=True),
    "worker_job_cpu_time_seconds_total": Promise(_QUEUE, rare=True),  # with WORKER_JOB_COSTS
    "worker_job_memory_growth_bytes_total": Promise(_QUEUE, rare=True),
    "worker_schedule_ticks_total": Promise(
        _QUEUE | {"worker_schedule_key", "worker_schedule_outcome"}, processes=1, rare=True
    ),
    "worker_operator_acts_total": Promise(
        _QUEUE | {"worker_operator_verb", "worker_operator_name"}, processes=1, rare=True
    ),
    "worker_slots_limit": Promise(_QUEUE),
    "worker_slots_used": Promise(_QUEUE),
    "worker_processes": Promise({"messaging_system_name", "worker_process_state"}, processes=1),
    "worker_process_restarts_total": Promise({"messaging_system_name", "worker_process_exit_reason"}, processes=1),
    "worker_process_memory_bytes": Promise({"messaging_system_name", "worker_process_slot"}),
    "worker_telemetry_dropped_total": Promise({"messaging_system_name", "signal"}),
    "otel_sdk_exporter_span_exported_total": Promise(_EXPORTER, _ERROR, processes=1),
    "otel_sdk_exporter_span_inflight": Promise(_EXPORTER, processes=1),
    "otel_sdk_exporter_operation_duration_seconds": Promise(
        _EXPORTER, _ERROR | {"http_response_status_code", "rpc_status_code"}, histogram=True, processes=1
    ),
    "otel_sdk_processor_span_queue_size": Promise(_COMPONENT, processes=1),
    "otel_sdk_processor_span_queue_capacity": Promise(_COMPONENT, processes=1),
}
