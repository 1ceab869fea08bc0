"""Splits by entity: disjoint, reproducible, and independent of pseudonyms and of the order of rows."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from hedgerow.errors import FailedPreconditionError
from services.training.splits import SHARES, split_rows
from services.training.training_set import TrainingRows
from tests.unit.training.rows import AUGUST, SEPTEMBER, training_rows


def taken(rows: TrainingRows, index: np.ndarray) -> TrainingRows:
    """Some of the rows."""
    return dataclasses.replace(
        rows,
        entities=rows.entities[index],
        as_of_us=rows.as_of_us[index],
        labels=rows.labels[index],
        features=rows.features[index],
    )


def test_splits_are_disjoint_by_entity_over_both_cutoffs() -> None:
    rows = training_rows(3000)
    splits = split_rows(rows, 7)
    entities = {name: set(rows.entities[split.rows]) for name, split in splits.items()}
    assert list(entities) == list(SHARES)
    for first, second in itertools.combinations(entities.values(), 2):
        assert first.isdisjoint(second)
    assert set().union(*entities.values()) == set(rows.entities)


def test_only_the_train_split_has_older_cutoffs() -> None:
    rows = training_rows(3000)
    for name, split in split_rows(rows, 7).items():
        cutoffs = set(rows.as_of_us[split.rows].tolist())
        assert cutoffs == ({AUGUST, SEPTEMBER} if name == "train" else {SEPTEMBER})
        assert split.heads.tolist() == [0 if cutoff == SEPTEMBER else 1 for cutoff in rows.as_of_us[split.rows]]
        assert split.labels.tolist() == rows.labels[split.rows].tolist()
        assert np.array_equal(split.features, rows.features[split.rows], equal_nan=True)


def test_shares_are_kept() -> None:
    splits = split_rows(training_rows(6000), 7)
    for name, share in SHARES.items():
        rows = len(splits[name]) / (2 if name == "train" else 1)
        assert rows / 6000 == pytest.approx(share, abs=0.03)


def test_pseudonyms_and_order_decide_nothing() -> None:
    rows = training_rows(2000)
    mixed = taken(rows, np.random.default_rng(5).permutation(len(rows)))
    renamed = dataclasses.replace(mixed, entities=np.char.add("other-", mixed.entities))
    first, second = split_rows(rows, 7), split_rows(renamed, 7)
    for name in SHARES:
        assert np.array_equal(first[name].features, second[name].features, equal_nan=True)
        assert np.array_equal(first[name].labels, second[name].labels)


def test_another_seed_gives_other_splits() -> None:
    rows = training_rows(2000)
    first, second = split_rows(rows, 7), split_rows(rows, -8)
    assert set(first["test"].rows) != set(second["test"].rows)


def test_entities_with_equal_values_share_a_split() -> None:
    rows = training_rows(2000)
    copies = dataclasses.replace(rows, entities=np.char.add("copy-", rows.entities))
    both = TrainingRows(
        np.concatenate([rows.entities, copies.entities]),
        *(np.concatenate([getattr(rows, name)] * 2) for name in ("as_of_us", "labels", "features")),
        rows.feature_names,
    )
    of = {entity: name for name, split in split_rows(both, 7).items() for entity in both.entities[split.rows]}
    assert all(of[entity] == of[f"copy-{entity}"] for entity in rows.entities)


def test_too_small_a_set_is_refused() -> None:
    with pytest.raises(FailedPreconditionError, match="too small"):
        split_rows(training_rows(50), 7)
    rows = training_rows(2000)
    with pytest.raises(FailedPreconditionError, match="too small"):
        split_rows(dataclasses.replace(rows, labels=np.zeros_like(rows.labels)), 7)
