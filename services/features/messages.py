"""Between the messages of `hedgerow.features.v1` and the domain: fields only, no rules but those of form."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from hedgerow import names
from hedgerow.features.v1 import features_pb2 as pb
from services.features.computation import Block
from services.features.expression import invalid
from services.features.records import MaterializationRecord, TrainingSetRecord
from services.features.training_set import Cutoff
from services.features.view import Feature, FeatureService, FeatureView

VIEW = "featureViews/{feature_view}"
SERVICE = "featureServices/{feature_service}"
TRAINING_SET = "trainingSets/{training_set}"
MATERIALIZATION = "materializations/{materialization}"
DATASET = "datasets/{dataset}"
ERASURE_REQUEST = "erasureRequests/{erasure_request}"


def view_id(name: str, field: str = "name") -> str:
    """Return the id in the name of a feature view, or raise InvalidArgumentError; so do the others."""
    return names.parse(VIEW, name, field=field)["feature_view"]


def service_id(name: str, field: str = "name") -> str:
    """Return the id in the name of a feature service."""
    return names.parse(SERVICE, name, field=field)["feature_service"]


def training_set_id(name: str) -> str:
    """Return the id in the name of a training set."""
    return names.parse(TRAINING_SET, name, field="name")["training_set"]


def materialization_id(name: str) -> str:
    """Return the id in the name of a materialization."""
    return names.parse(MATERIALIZATION, name, field="name")["materialization"]


def to_us(time: Timestamp, field: str) -> int:
    """Return a timestamp in µs since 1970 UTC, rounded down.

    Event times are whole microseconds, so rounding down changes no comparison with one.

    Raises:
        InvalidArgumentError: it is outside the years 1 to 9999.
    """
    if not -62_135_596_800 <= time.seconds <= 253_402_300_799 or not 0 <= time.nanos < 1_000_000_000:
        raise invalid(field, "expected a time in the years 1 to 9999")
    return int(time.seconds * 1_000_000 + time.nanos // 1_000)


def from_us(us: int) -> Timestamp:
    """Return µs since 1970 UTC as a timestamp."""
    return Timestamp(seconds=us // 1_000_000, nanos=us % 1_000_000 * 1_000)


def features_of(view: pb.FeatureView) -> list[Feature]:
    """Return the features of a view message."""
    return [
        Feature(
            name=feature.name,
            expression=feature.expression,
            window_months=feature.window_months,
            description=feature.description,
            mutable_fraction=feature.mutable_fraction,
        )
        for feature in view.features
    ]


def cutoffs_of(training_set: pb.TrainingSet) -> list[Cutoff]:
    """Return the label cut-offs of a training set message.

    Raises:
        InvalidArgumentError: a time is missing or out of range, or a dataset is misnamed.
    """
    cutoffs = []
    for index, cutoff in enumerate(training_set.cutoffs):
        path = f"training_set.cutoffs[{index}]"
        names.parse(DATASET, cutoff.dataset, field=f"{path}.dataset")
        if not cutoff.HasField("as_of_time"):
            raise invalid(f"{path}.as_of_time", "is required")
        cutoffs.append(
            Cutoff(
                as_of_us=to_us(cutoff.as_of_time, f"{path}.as_of_time"),
                dataset=cutoff.dataset,
                expression=cutoff.expression,
                horizon_months=cutoff.horizon_months,
            )
        )
    return cutoffs


def view_message(view: FeatureView, create_us: int) -> pb.FeatureView:
    """Return the message of a feature view."""
    return pb.FeatureView(
        name=names.build(VIEW, feature_view=view.view_id),
        dataset=view.source.dataset,
        entity_column=view.entity.column,
        features=[
            pb.Feature(
                name=feature.name,
                expression=feature.expression,
                window_months=feature.window_months,
                description=feature.description,
                mutable_fraction=feature.mutable_fraction,
            )
            for feature in view.features
        ],
        ttl_seconds=view.ttl_seconds,
        purposes=sorted(view.purposes),
        tags=sorted(view.tags),
        create_time=from_us(create_us),
        description=view.description,
    )


def service_message(service: FeatureService, create_us: int) -> pb.FeatureService:
    """Return the message of a feature service."""
    return pb.FeatureService(
        name=names.build(SERVICE, feature_service=service.service_id),
        feature_views=[names.build(VIEW, feature_view=view.view_id) for view in service.views],
        feature_names=service.feature_names,
        purposes=sorted(service.purposes),
        create_time=from_us(create_us),
        feature_descriptions=[feature.description for feature in service.features],
        mutable_fractions=[feature.mutable_fraction for feature in service.features],
    )


def training_set_message(record: TrainingSetRecord) -> pb.TrainingSet:
    """Return the message of a training set."""
    return pb.TrainingSet(
        name=names.build(TRAINING_SET, training_set=record.training_set_id),
        feature_service=names.build(SERVICE, feature_service=record.service_id),
        cutoffs=[
            pb.LabelCutoff(
                as_of_time=from_us(cutoff.as_of_us),
                dataset=cutoff.dataset,
                expression=cutoff.expression,
                horizon_months=cutoff.horizon_months,
            )
            for cutoff in record.cutoffs
        ],
        state=pb.TrainingSet.State.Name(record.state),
        row_count=record.row_count,
        digest=record.digest,
        error=record.error,
        sources=record.sources,
        create_time=from_us(record.create_us),
        purposes=record.purposes,
    )


def materialization_message(record: MaterializationRecord) -> pb.Materialization:
    """Return the message of a materialization."""
    return pb.Materialization(
        name=names.build(MATERIALIZATION, materialization=record.materialization_id),
        feature_service=names.build(SERVICE, feature_service=record.service_id),
        as_of_time=from_us(record.as_of_us),
        state=pb.Materialization.State.Name(record.state),
        entity_count=record.entity_count,
        rejected_count=record.rejected_count,
        error=record.error,
    )


def block_message(service: FeatureService, block: Block) -> pb.FeatureBlock:
    """Return the message of a feature block."""
    return pb.FeatureBlock(
        feature_names=service.feature_names,
        values=block.values.astype("<f8", order="C", copy=False).tobytes(),
        statuses=block.statuses.tolist(),
    )
