"""The checks of a demo run: each value is computed from the run's report, each goal is the issue's."""

from examples.credit.records import PLANTED_CLIENTS, PLANTED_STATEMENTS
from examples.credit.report.model import Check, Report
from suite.config import DISTRIBUTED, EMBEDDED

CLIENTS = 30_000
STATEMENTS = 180_000
MOST_SECONDS = 180.0
# The distributed profile runs three stores and two more services; memory that processes share counts for each of them.
MOST_RSS_MIB = {EMBEDDED: 2048.0, DISTRIBUTED: 4096.0}
# Where the issue names no number: an explanation may miss the model's own difference by at most a hundredth of a logit, and
# calibration may be off by what the gate allows.
MOST_GAP = 0.01
MOST_ECE = 0.04


def checks(report: Report, max_gap: float, profile: str) -> list[Check]:
    """Returns every check of the demo on a suite of a profile.

    max_gap: largest completeness gap over all explanations of the run, in logits.
    """
    purposes = [refusal for refusal in report.refusals if refusal.kind == "purpose"]
    identities = [refusal for refusal in report.refusals if refusal.kind == "identity"]
    erasure, serving, features = report.erasure, report.serving, report.features
    planted = len(PLANTED_CLIENTS) + len(PLANTED_STATEMENTS)
    return [
        Check("auc", report.champion.auc, "AUC", ">=", 0.77),
        Check("ece", report.champion.ece, "ECE", "<=", MOST_ECE),
        Check("rows_ingested", sum(each.rows for each in report.datasets), "rows", "==", CLIENTS + STATEMENTS),
        Check("rows_quarantined", sum(each.quarantined for each in report.datasets), "rows", "==", planted),
        Check("backfill_changed_rows", features.backfill_changed_rows, "rows", "==", 0),
        Check("refused_model_promoted", int(report.challenger.promoted), "models", "==", 0),
        Check("online_offline_bytes_equal", int(features.bytes_equal), "bool", "==", 1),
        Check("prediction_max_abs_diff", serving.max_abs_diff, "probability", "<=", 1e-6),
        Check("explanation_completeness_gap", max_gap, "logits", "<=", MOST_GAP),
        Check("purpose_refusals", sum(each.refused for each in purposes), "calls", "==", len(purposes)),
        Check("identity_refusals", sum(each.refused for each in identities), "calls", "==", len(identities)),
        Check("audit_verified", int(report.audit.verified), "bool", "==", 1),
        Check("audit_tamper_found", int(report.audit.tamper_found), "bool", "==", 1),
        Check("erased_subject_hits", erasure.remaining_hits + erasure.disk_hits, "places", "==", 0),
        Check("plaintext_files", erasure.plaintext_files, "files", "==", 0),
        Check("demo_seconds", report.seconds, "s", "<=", MOST_SECONDS),
        Check("rss_mib", report.rss_mib, "MiB", "<=", MOST_RSS_MIB[profile]),
    ]
