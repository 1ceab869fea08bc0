"""For each RPC: who may call it, a request that is well formed, and what is wrong in requests that are not.

A new RPC without an entry fails the tests that read this table.
"""

from tests.e2e.entries import models, platform, records
from tests.e2e.entries.entry import Entry

ENTRIES: dict[str, Entry] = platform.STANDARD | {
    f"{service}/{method}": entry
    for service, entries in (
        ("hedgerow.ingestion.v1.IngestionService", records.INGESTION),
        ("hedgerow.features.v1.FeaturesService", records.FEATURES),
        ("hedgerow.training.v1.TrainingService", models.TRAINING),
        ("hedgerow.models.v1.ModelsService", models.MODELS),
        ("hedgerow.inference.v1.InferenceService", models.INFERENCE),
        ("inference.GRPCInferenceService", models.OPEN_INFERENCE),
        ("hedgerow.secrets.v1.SecretsService", platform.SECRETS),
        ("hedgerow.governance.v1.GovernanceService", platform.GOVERNANCE),
    )
    for method, entry in entries.items()
}

__all__ = ["ENTRIES", "Entry"]
