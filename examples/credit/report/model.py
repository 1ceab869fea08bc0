"""What a demo run found, as plain values: the input of the report page and of the checks."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

_COMPARE: dict[str, Callable[[float, float], bool]] = {"==": operator.eq, ">=": operator.ge, "<=": operator.le}


@dataclass(frozen=True)
class Check:
    """One figure of the run beside its goal. `op` is `==`, `>=` or `<=`; true counts as 1."""

    name: str
    value: float
    unit: str
    op: str
    goal: float

    @property
    def met(self) -> bool:
        """Whether the value keeps the goal."""
        return _COMPARE[self.op](self.value, self.goal)


@dataclass(frozen=True)
class StepTiming:
    """How long one step took, in seconds from the start of the run."""

    title: str
    start: float
    seconds: float


@dataclass(frozen=True)
class ColumnFacts:
    """One column of a contract. `protection` says in words what happens to its values."""

    name: str
    type: str
    tags: Sequence[str]
    protection: str
    purposes: Sequence[str]


@dataclass(frozen=True)
class DatasetFacts:
    """One dataset as the service answers for it after the ingest."""

    name: str
    description: str
    rows: int
    quarantined: int
    columns: Sequence[ColumnFacts]
    purposes: Sequence[str]
    legal_basis: str
    retention_days: int


@dataclass(frozen=True)
class QuarantinedRow:
    """One row that broke its contract."""

    dataset: str
    row_index: int
    reason: str


@dataclass(frozen=True)
class FeatureFacts:
    """One feature: what it means and how it is computed."""

    name: str
    expression: str
    window_months: int
    description: str
    mutable_fraction: float


@dataclass(frozen=True)
class CutoffFacts:
    """One label cut-off of the training set with what came out of it."""

    as_of: datetime
    label: str
    rows: int
    positive_share: float


@dataclass(frozen=True)
class FeatureStep:
    """The training set and the online store."""

    features: Sequence[FeatureFacts]
    training_set: str
    digest: str
    cutoffs: Sequence[CutoffFacts]
    backfill_changed_rows: int
    backfill_control_changed: int
    entities_online: int
    entities_compared: int
    bytes_compared: int
    bytes_equal: bool


@dataclass(frozen=True)
class Epoch:
    """One measured epoch."""

    number: int
    train_loss: float
    validation_loss: float
    validation_auc: float


@dataclass(frozen=True)
class Gate:
    """One gate: `outcome` is `passed`, `failed` or `not enough evidence`."""

    name: str
    outcome: str
    value: float
    bound: float
    unit: str
    detail: str


@dataclass(frozen=True)
class Rate:
    """A share with its 95 % interval; NaN where there are no cases."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class GroupRates:
    """Error rates of one group at the operating threshold."""

    attribute: str
    group: str
    count: int
    positives: int
    true_positive: Rate
    false_positive: Rate


@dataclass(frozen=True)
class ReliabilityBin:
    """One bin of predictions: mean predicted probability, observed share of the outcome, rows."""

    predicted: float
    observed: float
    count: int


@dataclass(frozen=True)
class ModelFacts:
    """One trained version with its evidence; the curves are of the untouched test split."""

    version: str
    run: str
    world_size: int
    epochs: Sequence[Epoch]
    gates: Sequence[Gate]
    promoted: bool
    refusal: str
    seconds: float
    card: str = ""
    auc: float = float("nan")
    ece: float = float("nan")
    roc: Sequence[tuple[float, float]] = ()
    reliability: Sequence[ReliabilityBin] = ()
    groups: Sequence[GroupRates] = ()


@dataclass(frozen=True)
class ReasonFacts:
    """One reason of an explanation."""

    feature: str
    value: float
    attribution: float
    text: str


@dataclass(frozen=True)
class ServeStep:
    """What the deployment answered."""

    deployment: str
    version: str
    triton_rows: int
    entity_rows: int
    max_abs_diff: float
    probability: float
    logit: float
    baseline_logit: float
    completeness_gap: float
    reasons: Sequence[ReasonFacts]
    other_attribution: float


@dataclass(frozen=True)
class Refusal:
    """A call that must be refused: who tried what, and the answer. `kind` is `purpose` or `identity`."""

    kind: str
    who: str
    what: str
    code: str
    reason: str
    refused: bool


@dataclass(frozen=True)
class AuditLine:
    """One event of the trail."""

    time: datetime
    service: str
    actor: str
    on_behalf_of: str
    action: str
    purpose: str
    decision: str
    policies: Sequence[str]
    code: str
    count: int


@dataclass(frozen=True)
class AuditFacts:
    """The trail of this run and what became of a changed byte in a copy of it."""

    verified: bool
    segments: int
    events: int
    permitted: int
    denied: int
    delegated: int
    lines: Sequence[AuditLine]
    tamper_found: bool
    tamper_fault: str


@dataclass(frozen=True)
class StoreFacts:
    """What one store did for the erasure."""

    store: str
    searched: int
    rewritten: int
    destroyed: int
    rows_erased: int
    remaining: int


@dataclass(frozen=True)
class ErasureFacts:
    """The erasure of one client, and what a search of the disk found afterwards."""

    request: str
    subject_hash: str
    state: str
    stores: Sequence[StoreFacts]
    receipt_verified: bool
    old_version_code: str
    old_version_reason: str
    remaining_hits: int
    disk_hits: int
    files_searched: int
    bytes_searched: int
    plaintext_files: int


@dataclass(frozen=True)
class Report:
    """All of one run."""

    run: str
    start_time: datetime
    seconds: float
    rss_mib: float
    timings: Sequence[StepTiming]
    datasets: Sequence[DatasetFacts]
    quarantine: Sequence[QuarantinedRow]
    features: FeatureStep
    champion: ModelFacts
    challenger: ModelFacts
    serving: ServeStep
    refusals: Sequence[Refusal]
    audit: AuditFacts
    erasure: ErasureFacts
    checks: Sequence[Check] = field(default=())
