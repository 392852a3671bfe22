"""Metrics: the Prometheus adapter of the ``Observer`` port.

The only module that knows the client library. A metric exists when a line of
:data:`METRICS` says so; every series whose labels are known beforehand starts at zero
(RT-OBS-3), and a name nobody declared is a ``KeyError``. Labels are closed sets, never
an id (RT-OBS-1). The series of a name and its labels are kept, so counting costs one
dictionary look-up.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Final, Literal, Protocol, TypeAlias, cast

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.metrics import MetricWrapperBase

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

Kind: TypeAlias = Literal["counter", "gauge", "seconds", "sizes"]

_SECONDS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60,
)  # fmt: skip
_SIZES: Final = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000)


@dataclass(frozen=True)
class Metric:
    """One metric: what it counts, and the label values known beforehand.

    Attributes:
        labels: ``name=value,value`` each; only ``name`` when values come with use.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


class PrometheusObserver:
    """Counts and times into a registry of its own."""

    def __init__(self, metrics: tuple[Metric, ...] = (), **build: str) -> None:
        self.registry = CollectorRegistry()
        self._metrics: dict[str, MetricWrapperBase] = {}
        self._series: dict[tuple[str, tuple[tuple[str, str], ...]], _Series] = {}
        for metric in metrics or METRICS:
            self._declare(metric)
        if build:
            info = Gauge(
                "noetl_build_info", "this build", list(build), registry=self.registry
            )
            info.labels(**build).set(1)

    def _declare(self, metric: Metric) -> None:
        if metric.name in self._metrics:
            raise ValueError(f"metric {metric.name} is declared twice")
        pairs = [label.partition("=") for label in metric.labels]
        names = [name for name, _, _ in pairs]
        made: MetricWrapperBase
        if metric.kind == "counter":
            made = Counter(metric.name, metric.help, names, registry=self.registry)
        elif metric.kind == "gauge":
            made = Gauge(metric.name, metric.help, names, registry=self.registry)
        else:
            made = Histogram(
                metric.name,
                metric.help,
                names,
                buckets=_SECONDS if metric.kind == "seconds" else _SIZES,
                registry=self.registry,
            )
        self._metrics[metric.name] = made
        if names and all(values for _, _, values in pairs):
            for known in product(*(values.split(",") for _, _, values in pairs)):
                made.labels(*known)

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        self._find(name, labels).inc(amount)

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        self._find(name, labels).set(value)

    def time(self, name: str, seconds: float, **labels: str) -> None:
        """Observe a duration, or a size, in a histogram."""
        self._find(name, labels).observe(seconds)

    def page(self) -> bytes:
        """All series in the exposition format 0.0.4."""
        return generate_latest(self.registry)

    def _find(self, name: str, labels: dict[str, str]) -> _Series:
        key = (name, tuple(labels.items()))
        series = self._series.get(key)
        if series is None:
            metric = self._metrics.get(name)
            if metric is None:
                raise KeyError(f"metric {name} is not declared in noetl_worker.metrics")
            made = metric.labels(**labels) if labels else metric
            series = self._series[key] = cast("_Series", made)
        return series


class _Series(Protocol):
    """One series of whatever kind; the kind it lacks is an error of the caller."""

    def inc(self, amount: float) -> None: ...

    def set(self, value: float) -> None: ...

    def observe(self, amount: float) -> None: ...


def _rows(kind: Kind, text: str) -> list[Metric]:
    """Metrics of one kind, a line each: name, labels, ``--``, help."""
    found = []
    for line in text.strip().splitlines():
        head, _, help_text = line.partition(" -- ")
        name, *labels = head.split()
        found.append(Metric(name, kind, help_text.strip(), tuple(labels)))
    return found


_COUNTERS = """
noetl_events_ingested_total event_type status -- events taken over HTTP
noetl_event_ingest_published_total event_type -- server appends acknowledged by the log
noetl_event_publish_failed_total reason=timeout,fenced,log_full,too_large,unavailable -- appends the log refused or did not confirm
noetl_execute_outcomes_total entry=single,batch outcome=started,duplicate,error -- starts
noetl_http_requests_total method route status -- requests by route template
noetl_cancel_total outcome=cancelled,cancelling,already_completed,not_found -- cancels
noetl_container_callback_total state=succeeded,failed,failed_image_pull,failed_oom,failed_node_lost,failed_timeout -- call-backs of parked steps
noetl_container_callback_stale_total state=succeeded,failed,failed_image_pull,failed_oom,failed_node_lost,failed_timeout -- call-backs nobody waits for
noetl_event_hotpath_reads_total site=status,cancel,check,events outcome=served_owner,served_log,served_row,scan -- where live reads were answered
noetl_limit_hits_total limit -- named limits that were hit
noetl_results_stored_total tier -- values put into a store
noetl_results_fetched_total tier -- values taken out of a store
noetl_results_purged_total reason=expired,ended -- values removed from a store
noetl_streams_dropped_total reason=slow,too_many -- live streams the server ended
noetl_bus_reconnects_total -- connections to the broker made again
noetl_bus_deliveries_silenced_total -- deliveries whose deadline passed unnoticed
noetl_bus_questions_dropped_total -- questions to owners that were not taken
noetl_orchestrate_drive_total stage=dispatched,applied,empty,cas_lost,retry,context_offloaded,context_ref_resolved,ref_resolved,cold_rebuild,terminal_skip,evaluate_error -- drive passes by what became of them
noetl_lease_transitions_total kind=take,renew,lost outcome=ok,lost -- leases
noetl_checkpoint_bytes_total -- bytes of snapshots written
noetl_commands_given_up_total code=poison,no_worker,lost -- commands the owner ended
noetl_commands_lost_total -- commands issued again because their answer got lost
noetl_log_damaged_total kind=message,event -- what no owner could read in the log
noetl_log_trimmed_messages_total -- messages nobody needed any more
noetl_worker_pulls_total outcome=message,empty,error -- pulls of commands
noetl_worker_claim_failed_total reason=terminal,superseded,unavailable -- commands not run after asking
noetl_worker_claim_dead_lettered_total -- commands nobody can read
noetl_worker_commands_redelivered_total -- commands delivered again
noetl_worker_command_loop_reconnect_total reason -- pulls begun again
noetl_plugin_invocations_total outcome=success,error -- calls of plug-ins
noetl_plugin_cache_total event=hit,miss,evict -- compiled plug-ins
noetl_worker_call_done_skipped_pending_callback_total tool_kind=container -- commands parked until a job ends
noetl_worker_container_poll_started_total -- containers this worker began to watch
noetl_worker_container_poll_terminal_total state=succeeded,failed,failed_image_pull,failed_oom,failed_node_lost,failed_timeout -- ends it saw
noetl_worker_dispatch_errors_total tool_kind -- tools that failed
noetl_worker_tool_result_error_total tool_kind -- results that say isError: true
noetl_worker_materializer_drained_total -- messages read
noetl_worker_materializer_acked_total -- messages behind a committed position
noetl_worker_materializer_projected_total -- events stored
noetl_worker_materializer_duplicates_total -- events that were there already
noetl_worker_materializer_ignored_total -- late facts, stored as IGNORED
noetl_worker_materializer_cleaned_total -- messages with characters no column takes
noetl_worker_materializer_quarantined_total -- events set apart
noetl_worker_materializer_project_errors_total -- batches that failed
noetl_events_materialized_total -- events stored
noetl_projection_advanced_total -- executions brought up to date
noetl_credentials_sealed_total status=ok,ok_via_broker,no_pubkey,worker_not_found,residency_violation,credential_error,seal_error -- credentials sealed for workers
noetl_secret_resolve_total provider region status -- secrets fetched from providers
noetl_secret_provider_build_total provider region status -- providers of secrets made ready
noetl_secret_residency_check_total policy=none,advisory,strict decision=allowed_no_policy,allowed,violation_allowed,denied -- may a secret be seen in this region
noetl_secret_cache_skip_total reason=expired,inside_margin -- secrets too near their end to be kept
noetl_secret_refresh_total outcome=triggered,stampede_collapsed,succeeded,failed,decision_failed -- refreshes of cached secrets
noetl_secret_audit_writes_total operation outcome status -- rows of the audit trail
noetl_wallet_rotate_total table=credential,keychain status=skipped,rewrapped,failed_unwrap,failed_wrap,failed_write,parse_error -- rows seen by a key rotation
"""  # noqa: E501 - a table, a line each

_GAUGES = """
noetl_index_bytes -- memory of open executions in the owner, as of their last snapshot
noetl_bus_connected -- 1 while the broker answers
noetl_commands_unserved pool -- commands waiting for a pool nobody serves
noetl_executions_waiting reason=unclaimed,running,parked,other -- executions open for over an hour, by what they wait for
noetl_loops_held -- 1 while the log is too full for further iterations of loops
noetl_log_floor_sequence -- first message of the log that somebody needs
noetl_log_used_ratio -- share of the log's room in use
noetl_log_kept_messages by=snapshot,rows,lease,age -- messages that reason keeps in the log
noetl_bus_log_full -- 1 while the log refuses appends
noetl_streams_open -- live streams of this server
noetl_worker_concurrent_dispatches -- commands this worker is at, parked ones too
noetl_worker_nats_consumer_pending stream consumer -- messages not yet handled
noetl_worker_nats_consumer_oldest_seconds stream consumer -- age of the first of them
"""  # noqa: E501 - a table, a line each

_SECONDS_OF = """
noetl_event_ingest_duration_seconds -- taking events over HTTP
noetl_http_request_duration_seconds method route -- requests by route template
noetl_plugin_duration_seconds -- calls of plug-ins
noetl_worker_container_poll_duration_seconds -- from a container's start to its end
noetl_worker_dispatch_duration_seconds tool_kind status=success,error -- tools
noetl_secret_resolve_duration_seconds provider region -- fetching a secret
noetl_secret_refresh_duration_seconds -- refreshes of cached secrets
noetl_secret_dynamic_ttl_seconds -- life of secrets that end
"""

_SIZES_OF = """
noetl_execute_batch_size -- executions of one batch
"""

METRICS: Final = (
    *_rows("counter", _COUNTERS),
    *_rows("gauge", _GAUGES),
    *_rows("seconds", _SECONDS_OF),
    *_rows("sizes", _SIZES_OF),
)
