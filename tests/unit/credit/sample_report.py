"""A made-up report for tests of the page."""

import math
from datetime import UTC, datetime, timedelta

from examples.credit.report import model as m

START = datetime(2026, 11, 25, 9, 30, tzinfo=UTC)


def sample_report() -> m.Report:
    """Returns a report that fills each part of the page."""
    return m.Report(
        run="1",
        start_time=START,
        seconds=118.4,
        rss_mib=1432.0,
        timings=_timings(),
        datasets=_datasets(),
        quarantine=[
            m.QuarantinedRow("clients", 30000, "client_id: null in a key column"),
            m.QuarantinedRow("statements", 180002, "pay_delay: above the maximum"),
        ],
        features=_features(),
        champion=_model("credit_default/1", promoted=True, auc=0.7794),
        challenger=_model("credit_default/2", promoted=False, auc=0.7211),
        serving=_serving(),
        refusals=[
            m.Refusal(
                "purpose",
                "mia, marketing",
                "read the credit features online",
                "PERMISSION_DENIED",
                "POLICY_DENIED",
                True,
            ),
            m.Refusal("identity", "a caller without a certificate", "list datasets", "UNAVAILABLE", "TLS", True),
        ],
        audit=_audit(),
        erasure=_erasure(),
        checks=[
            m.Check("auc", 0.7794, "auc", ">=", 0.77),
            m.Check("prediction_max_abs_diff", 3.1e-8, "probability", "<=", 1e-6),
            m.Check("rss_mib", 2100.0, "MiB", "<=", 2048),
        ],
    )


def _timings() -> list[m.StepTiming]:
    steps = [
        ("Ingest", 6.0),
        ("Features", 9.5),
        ("Train", 48.0),
        ("Gate and register", 3.0),
        ("Serve", 4.0),
        ("Prove", 21.0),
    ]
    timings, start = [], 0.0
    for title, seconds in steps:
        timings.append(m.StepTiming(title, start, seconds))
        start += seconds
    return timings


def _datasets() -> list[m.DatasetFacts]:
    columns = [
        m.ColumnFacts("client_id", "string", ["pii"], "keyed hash", ["credit_risk"]),
        m.ColumnFacts("credit_limit", "int64", ["sensitive"], "encrypted", ["credit_risk"]),
        m.ColumnFacts("sex", "int64", ["sensitive"], "encrypted", ["fairness_audit"]),
    ]
    return [
        m.DatasetFacts("clients", "Card holders.", 30000, 3, columns, ["credit_risk"], "contract", 3650),
        m.DatasetFacts("statements", "Monthly statements.", 180000, 4, columns, ["credit_risk"], "contract", 3650),
    ]


def _features() -> m.FeatureStep:
    return m.FeatureStep(
        features=[
            m.FeatureFacts(
                "statement_behaviour.worst_delay_6m", "max(pay_delay)", 6, "worst payment delay in 6 months", 0
            ),
            m.FeatureFacts(
                "statement_behaviour.utilisation", "avg(bill_amount / credit_limit)", 3, "share of limit used", 0.1
            ),
        ],
        training_set="credit_default_rows",
        digest="9f" * 32,
        cutoffs=[
            m.CutoffFacts(datetime(2005, 8, 31, tzinfo=UTC), "bool_or(pay_delay >= 1)", 30000, 0.227),
            m.CutoffFacts(datetime(2005, 9, 30, tzinfo=UTC), "bool_or(defaulted)", 30000, 0.221),
        ],
        backfill_changed_rows=0,
        backfill_control_changed=7,
        entities_online=30000,
        entities_compared=1000,
        bytes_compared=232000,
        bytes_equal=True,
    )


def _rate(value: float) -> m.Rate:
    return m.Rate(value, value - 0.04, value + 0.05)


def _model(version: str, *, promoted: bool, auc: float) -> m.ModelFacts:
    gates = [
        m.Gate("accuracy", "passed" if promoted else "failed", auc, 0.77, "auc", ""),
        m.Gate("calibration", "passed", 0.0123, 0.03, "ece", ""),
        m.Gate(
            "fairness:age", "not enough evidence", math.nan, 0.2, "equalized_odds_difference", "60+ has 41 defaults"
        ),
    ]
    epochs = [m.Epoch(n, 0.47 - 0.01 * n + 0.001 * n * n / 3, 0.46 - 0.008 * n, auc - 0.05 / n) for n in range(1, 9)]
    rates = [
        ("sex", "men", 0.61, 0.21),
        ("sex", "women", 0.58, 0.17),
        ("age", "under 30", 0.6, 0.2),
        ("age", "60 and over", math.nan, math.nan),
    ]
    return m.ModelFacts(
        version=version,
        run="trainingRuns/abc",
        world_size=2,
        epochs=epochs,
        gates=gates,
        promoted=promoted,
        refusal="" if promoted else "gate accuracy did not pass: 0.7211 is below 0.77",
        seconds=20.0,
        card="# Credit default\n\nPredicts <default>.",
        auc=auc,
        ece=0.0123,
        roc=[(n / 50, min(1.0, (n / 50) ** (0.35 if promoted else 0.5))) for n in range(51)],
        reliability=[m.ReliabilityBin(n / 20, n / 20 + (0.01 if n % 2 else -0.012), 400) for n in range(1, 15)],
        groups=[m.GroupRates(a, g, 2300, 510, _rate(t), _rate(f)) for a, g, t, f in rates],
    )


def _serving() -> m.ServeStep:
    reasons = [
        (
            "worst_delay_6m",
            2.0,
            0.91,
            "Worst payment delay in six months is 2, against 0 usually: more likely to default.",
        ),
        ("utilisation", 0.97, 0.34, "Share of the limit used is 0.97, against 0.31 usually: more likely to default."),
        ("credit_limit", 20000.0, 0.22, "Credit limit is 20,000: more likely to default."),
        ("payment_ratio", 0.8, -0.19, "Share of the bill paid is 0.8: less likely to default."),
    ]
    return m.ServeStep(
        deployment="deployments/credit",
        version="credit_default/1",
        triton_rows=500,
        entity_rows=500,
        max_abs_diff=3.1e-8,
        probability=0.6312,
        logit=0.537,
        baseline_logit=-1.42,
        completeness_gap=0.0012,
        reasons=[m.ReasonFacts(f"statement_behaviour.{f}", v, a, t) for f, v, a, t in reasons],
        other_attribution=0.07,
    )


def _audit() -> m.AuditFacts:
    lines = [
        m.AuditLine(
            START + timedelta(seconds=n),
            "features",
            "ana",
            "",
            "features.CreateFeatureView",
            "credit_risk",
            "permit",
            ["engineer-features"],
            "OK",
            1,
        )
        for n in range(14)
    ]
    lines.append(
        m.AuditLine(
            START,
            "features",
            "inference",
            "mia",
            "features.GetOnlineFeatures",
            "marketing",
            "deny",
            ["purpose"],
            "PERMISSION_DENIED",
            1,
        )
    )
    return m.AuditFacts(
        True, 18, 412, 380, 12, 40, lines, True, "segment ingestion-1-0, record 17: the hash does not match."
    )


def _erasure() -> m.ErasureFacts:
    stores = [m.StoreFacts("ingestion lake", 14, 4, 4, 7, 0), m.StoreFacts("features onlineStore", 60000, 0, 2, 2, 0)]
    return m.ErasureFacts(
        "erasureRequests/7c1f",
        "ab" * 32,
        "succeeded",
        stores,
        True,
        "FAILED_PRECONDITION",
        "VERSION_ERASED",
        0,
        0,
        312,
        48_300_000,
        0,
    )
