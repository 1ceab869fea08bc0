"""What the dashboard of a service shows: the same of each, and what only it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from deploy.grafana.panels import Panel, Row, graph
from deploy.grafana.queries import quantile, rate


def calls(chosen: str) -> Row:
    """Return how often, how well and how fast a service answers."""
    return Row(
        "Calls: rate, failures, duration",
        [
            graph("Calls a second", (rate("hedgerow_rpc_handled_total", "method", chosen), "{{method}}"), unit="reqps"),
            graph(
                "Failures by reason",
                (rate("hedgerow_rpc_failures_total", "reason", chosen) + " > 0", "{{reason}}"),
                unit="reqps",
                help="FIELD_INVALID and the like are the caller's; UNAVAILABLE and INTERNAL are ours.",
            ),
            graph(
                "Duration",
                (quantile(0.5, "hedgerow_rpc_seconds", "service", chosen), "{{service}} half"),
                (quantile(0.99, "hedgerow_rpc_seconds", "service", chosen), "{{service}} 99%"),
                unit="s",
            ),
        ],
    )


def saturation(chosen: str) -> Row:
    """Return how full a service is."""
    return Row(
        "How full it is",
        [
            graph(
                "Wait before the handler, 95%",
                (quantile(0.95, "hedgerow_rpc_queue_seconds", "service", chosen), "{{service}}"),
                unit="s",
            ),
            graph(
                "Calls in progress, of those it takes",
                (f"hedgerow_rpc_in_flight{{{chosen}}} / hedgerow_rpc_capacity{{{chosen}}}", "{{service}} {{instance}}"),
                unit="percentunit",
            ),
            graph(
                "Event loop late by, 99%",
                (quantile(0.99, "hedgerow_event_loop_lag_seconds", "service", chosen), "{{service}}"),
                unit="s",
            ),
            graph(
                "Threads at work and jobs that wait",
                (f"hedgerow_pool_busy{{{chosen}}} / hedgerow_pool_threads{{{chosen}}}", "{{service}} {{pool}} busy"),
                (f"hedgerow_pool_waiting{{{chosen}}} > 0", "{{service}} {{pool}} waiting"),
            ),
            graph(
                "Wait for a thread, 95%",
                (quantile(0.95, "hedgerow_pool_wait_seconds", "service, pool", chosen), "{{service}} {{pool}}"),
                unit="s",
            ),
            graph("Open files", (f"process_open_fds{{{chosen}}}", "{{service}} {{instance}}")),
        ],
    )


def process(chosen: str) -> Row:
    """Return what a process uses."""
    return Row(
        "Processor and memory",
        [
            graph(
                "Processor seconds a second",
                (rate("process_cpu_seconds_total", "service", chosen), "{{service}}"),
                (rate("hedgerow_children_cpu_seconds_total", "service", chosen) + " > 0", "{{service}} children"),
                help="1 is a whole core. Child processes count once they have ended.",
            ),
            graph("Memory", (f"process_resident_memory_bytes{{{chosen}}}", "{{service}} {{instance}}"), unit="bytes"),
            graph(
                "Trust",
                (f"hedgerow_certificate_expire_time_seconds{{{chosen}}} - time()", "{{service}} certificate left"),
                (f"hedgerow_watch_age_seconds{{{chosen}}}", "{{service}} {{watch}} unheard"),
                unit="s",
            ),
        ],
    )


OWN: Final[Mapping[str, tuple[Panel, ...]]] = {
    "secrets": (
        graph(
            "Certificates and keys a second",
            (rate("hedgerow_rpc_handled_total", "method", 'service="secrets", code="OK"'), "{{method}}"),
        ),
    ),
    "governance": (
        graph("Policy bundle in force", ("hedgerow_policy_bundle_version", "{{service}}")),
        graph("Erasures that ended", ("increase(hedgerow_erasures_total[1h])", "{{state}}")),
        graph(
            "Erasures at work, and the age of the oldest",
            ("hedgerow_erasures_running", "at work"),
            ("hedgerow_erasure_oldest_seconds", "oldest, seconds"),
        ),
    ),
    "ingestion": (
        graph("Rows a second", (rate("hedgerow_ingest_rows_total", "dataset"), "{{dataset}}")),
        graph(
            "Rows to quarantine a second", (rate("hedgerow_ingest_quarantined_rows_total", "dataset"), "{{dataset}}")
        ),
        graph(
            "Share that breaks the contract",
            ("dataset:hedgerow_ingest_quarantine_ratio:rate1h", "{{dataset}}"),
            unit="percentunit",
        ),
    ),
    "features": (
        graph(
            "Entities read online a second",
            (
                rate("hedgerow_features_online_entities_total", "feature_service, status"),
                "{{feature_service}} {{status}}",
            ),
        ),
        graph(
            "Stale share",
            ("feature_service:hedgerow_features_stale_ratio:rate15m", "{{feature_service}}"),
            unit="percentunit",
        ),
        graph(
            "Age of the last materialization",
            ("time() - hedgerow_features_materialized_time_seconds", "{{feature_service}}"),
            unit="s",
            help="Between now and the time as of which features were computed.",
        ),
    ),
    "training": (
        graph("Runs that ended", ("increase(hedgerow_training_runs_total[6h])", "{{state}}")),
        graph("Runs that wait", ("hedgerow_training_runs_waiting", "waiting")),
        graph(
            "Processor seconds of trainings",
            ('increase(hedgerow_children_cpu_seconds_total{service="training"}[1h])', "in the last hour"),
            unit="s",
        ),
    ),
    "inference": (
        graph("Predictions a second", (rate("hedgerow_model_predictions_total", "deployment"), "{{deployment}}")),
        graph("Requests that wait for a model", ("hedgerow_model_waiting", "{{deployment}} {{version}}")),
        graph("Deployments not loaded", ("hedgerow_deployments_pending", "pending")),
    ),
}
