"""The dashboards that look across services."""

from __future__ import annotations

from typing import Any, Final

from deploy.grafana.panels import Row, Variable, dashboard, graph, number
from deploy.grafana.queries import each, quantile, rate
from deploy.grafana.service_rows import OWN, process

SERVICES: Final = ("secrets", "governance", "ingestion", "features", "training", "inference")


def suite() -> dict[str, Any]:
    """Return the dashboard to look at first."""
    up = 'up{job=~"' + "|".join(SERVICES) + '"}'
    return dashboard(
        "hedgerow-suite",
        "Hedgerow: suite",
        [
            Row(
                "Now",
                [
                    number("Services up", f"sum({up})"),
                    number("Services down", f"count({up} == 0)", red_from=1),
                    number("Alerts that fire", 'count(ALERTS{alertstate="firing"})', red_from=1),
                    number("Calls a second", "sum(service:hedgerow_rpc_handled:rate5m)", "reqps"),
                    number(
                        "Failing, worst service", "max(service:hedgerow_rpc_fault_ratio:rate5m)", "percentunit", 0.001
                    ),
                    number("Slow online, worst", "max(service:hedgerow_online_slow_ratio:rate5m)", "percentunit", 0.01),
                ],
            ),
            Row(
                "Objectives",
                [
                    graph(
                        "Budget burn of failures (1 lasts the month)",
                        ("service:hedgerow_rpc_fault_ratio:rate1h / 0.001", "{{service}}"),
                        width=12,
                    ),
                    graph(
                        "Budget burn of latency (1 lasts the month)",
                        ("service:hedgerow_online_slow_ratio:rate1h / 0.01", "{{service}}"),
                        width=12,
                    ),
                ],
            ),
            Row(
                "Services",
                [
                    graph("Calls a second", ("service:hedgerow_rpc_handled:rate5m", "{{service}}"), unit="reqps"),
                    graph(
                        "Wait before the handler, 95%",
                        ("service:hedgerow_rpc_queue_seconds:p95_5m", "{{service}}"),
                        unit="s",
                    ),
                    graph("Denied a second", ("service:hedgerow_rpc_denied:rate10m", "{{service}}"), unit="reqps"),
                ],
            ),
            process(""),
        ],
    )


def models() -> dict[str, Any]:
    """Return the health of models."""
    chosen = 'deployment=~"$deployment"'
    labels = "deployment, version"
    return dashboard(
        "hedgerow-models",
        "Hedgerow: model health",
        [
            Row(
                "Answers",
                [
                    graph(
                        "Predictions a second",
                        (rate("hedgerow_model_predictions_total", labels, chosen), "{{deployment}} {{version}}"),
                    ),
                    graph(
                        "Failed, expired and late a second",
                        (rate("hedgerow_model_failures_total", labels, chosen), "{{deployment}} failed"),
                        (rate("hedgerow_model_expired_total", labels, chosen), "{{deployment}} expired"),
                        (rate("hedgerow_model_late_total", labels, chosen), "{{deployment}} late"),
                        help="Expired: nobody waited any more when its turn came. Late: the caller left while it ran.",
                    ),
                    graph(
                        "Since the last answer",
                        (
                            f"time() - (hedgerow_model_last_answer_time_seconds{{{chosen}}} > 0)",
                            "{{deployment}} {{version}}",
                        ),
                        unit="s",
                    ),
                ],
            ),
            Row(
                "Time and batches",
                [
                    graph(
                        "Wait for the model, 95%",
                        (quantile(0.95, "hedgerow_model_queue_seconds", labels, chosen), "{{deployment}} {{version}}"),
                        unit="s",
                    ),
                    graph(
                        "Rows in a batch, half",
                        (quantile(0.5, "hedgerow_model_batch_rows", labels, chosen), "{{deployment}} {{version}}"),
                    ),
                    graph(
                        "Model time for each prediction",
                        (
                            each(
                                "hedgerow_model_busy_seconds_total", "hedgerow_model_predictions_total", labels, chosen
                            ),
                            "{{deployment}} {{version}}",
                        ),
                        unit="s",
                    ),
                ],
            ),
            Row(
                "What models live on",
                [
                    graph(
                        "Stale features",
                        ("feature_service:hedgerow_features_stale_ratio:rate15m", "{{feature_service}}"),
                        unit="percentunit",
                    ),
                    graph(
                        "Rows that break their contract",
                        ("dataset:hedgerow_ingest_quarantine_ratio:rate1h", "{{dataset}}"),
                        unit="percentunit",
                    ),
                    graph(
                        "Explanations a second",
                        (rate("hedgerow_rpc_handled_total", "code", 'method=~".*/ExplainEntities"'), "{{code}}"),
                        unit="reqps",
                    ),
                ],
            ),
        ],
        [Variable("deployment", "hedgerow_model_requests_total", "deployment")],
    )


def privacy() -> dict[str, Any]:
    """Return privacy and security."""
    return dashboard(
        "hedgerow-privacy",
        "Hedgerow: privacy and security",
        [
            Row(
                "Who is refused",
                [
                    graph(
                        "Denied a second, by service",
                        ("service:hedgerow_rpc_denied:rate10m", "{{service}}"),
                        unit="reqps",
                    ),
                    graph(
                        "Denied, by method",
                        (
                            rate("hedgerow_rpc_handled_total", "method", 'code="PERMISSION_DENIED"') + " > 0",
                            "{{method}}",
                        ),
                        unit="reqps",
                    ),
                    graph(
                        "Why",
                        (
                            rate(
                                "hedgerow_rpc_failures_total",
                                "reason",
                                'reason=~"POLICY_DENIED|PURPOSE_NOT_PERMITTED|CERTIFICATE_.*|.*_INVALID|RATE_LIMITED"',
                            ),
                            "{{reason}}",
                        ),
                        unit="reqps",
                    ),
                ],
            ),
            Row(
                "Trust",
                [
                    graph(
                        "Certificates: time left",
                        ("hedgerow_certificate_expire_time_seconds - time()", "{{service}}"),
                        unit="s",
                    ),
                    graph(
                        "Policies and revocations unheard for",
                        ("hedgerow_watch_age_seconds", "{{service}} {{watch}}"),
                        unit="s",
                    ),
                    graph(
                        "Policy bundle in force",
                        ("hedgerow_policy_bundle_version", "{{service}}"),
                        help="All services should show the same.",
                    ),
                ],
            ),
            Row(
                "Audit trail",
                [
                    graph("Events a second", (rate("hedgerow_audit_events_total", "service"), "{{service}}")),
                    graph("Events that wait for the disk", ("hedgerow_audit_waiting", "{{service}}")),
                    graph(
                        "Refusing, and segments not shipped",
                        ("hedgerow_audit_refusing", "{{service}} refusing"),
                        ("hedgerow_audit_unshipped_segments", "{{service}} segments"),
                    ),
                ],
            ),
            Row(
                "Erasure",
                [
                    *OWN["governance"][1:],
                    graph("Rows erased", ("increase(hedgerow_erased_rows_total[1h])", "rows in the last hour")),
                ],
            ),
        ],
    )


def cost() -> dict[str, Any]:
    """Return what the suite costs, in processor time and memory."""
    return dashboard(
        "hedgerow-cost",
        "Hedgerow: cost",
        [
            Row(
                "What is used",
                [
                    number("Cores in use", "sum(rate(process_cpu_seconds_total[5m]))"),
                    number("Memory held", "sum(process_resident_memory_bytes)", "bytes"),
                    number(
                        "Core-hours in a day",
                        "(sum(increase(process_cpu_seconds_total[1d])) "
                        "+ sum(increase(hedgerow_children_cpu_seconds_total[1d]))) / 3600",
                    ),
                    number("Predictions in a day", "sum(increase(hedgerow_model_predictions_total[1d]))"),
                ],
            ),
            Row(
                "By service",
                [
                    graph("Cores in use", (rate("process_cpu_seconds_total", "service"), "{{service}}")),
                    graph(
                        "Memory held", ("sum by (service) (process_resident_memory_bytes)", "{{service}}"), unit="bytes"
                    ),
                    graph(
                        "Processor time for each call",
                        (
                            each("process_cpu_seconds_total", "hedgerow_rpc_handled_total", "service"),
                            "{{service}}",
                        ),
                        unit="s",
                    ),
                ],
            ),
            Row(
                "By model",
                [
                    graph(
                        "Cores in the model",
                        (rate("hedgerow_model_busy_seconds_total", "deployment"), "{{deployment}}"),
                    ),
                    graph(
                        "Share of the models' time",
                        (
                            rate("hedgerow_model_busy_seconds_total", "deployment")
                            + " / ignoring(deployment) group_left "
                            "sum(rate(hedgerow_model_busy_seconds_total[$__rate_interval]))",
                            "{{deployment}}",
                        ),
                        unit="percentunit",
                    ),
                    graph(
                        "Model time for a million predictions",
                        (
                            "1e6 * "
                            + each(
                                "hedgerow_model_busy_seconds_total", "hedgerow_model_predictions_total", "deployment"
                            ),
                            "{{deployment}}",
                        ),
                        unit="s",
                    ),
                ],
            ),
        ],
    )
