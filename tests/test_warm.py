"""Warm start and champions: a model moved into another day's id space predicts what it predicted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Project, tiny

# TensorFlow has no types worth the name.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
import ctr  # noqa: F401 - sets TensorFlow to Keras 2
from ctr.build import build_model, build_optimizer
from ctr.config import Config, load_config
from ctr.data import Rows, in_order, open_data
from ctr.idmap import FRESH, map_dense, map_rows
from ctr.optimizers import slots_of
from ctr.runs import find_model
from ctr.warm import champion_model, warm_start
from features.errors import BadInput
from features.spec import FeatureSpec

import tensorflow as tf  # isort: skip

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def days(project: Project) -> Project:
    """The project and a second day `both`: the log and another one, which have a spec of their own.

    Every value that the first spec keeps is kept by the second; `first` and `second` are the first log in either.
    """
    other = project.ctr("synth", "--rows", 2000, "--seed", 5, "--out", "other.tsv", "--json").result
    assert other["rows"] == 2000
    small = ["--set", "features.buckets=4096", "--split", "none", "--json"]
    project.ctr("prepare", "log.tsv", "other.tsv", "--out", "both", *small).result
    project.ctr("prepare", "log.tsv", "--out", "first", "--spec", "data", *small).result
    project.ctr("prepare", "log.tsv", "--out", "second", "--spec", "both", *small).result
    return project


def config_of(days: Project, **changes: str) -> Config:
    """The settings of the project's run."""
    return load_config(days.folder / "run" / "config.yaml", [f"{k.replace('__', '.')}={v}" for k, v in changes.items()])


def rows_of(folder: Path) -> tuple[FeatureSpec, Rows]:
    """The rows of a folder in the order of the log."""
    data = open_data(folder)
    parts = list(in_order(data.parts["train"], 100_000))
    rows = Rows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    return data.spec, rows.take(np.argsort(rows.row))


def predictions(model: Any, rows: Rows) -> Any:
    """Probabilities of rows."""
    return tf.sigmoid(model({"ids": tf.constant(rows.ids), "dense": tf.constant(rows.dense)})).numpy()[:, 0]


def served(days: Project) -> Any:
    """What the run's SavedModel predicts for the first log."""
    from serving.model import ServedModel

    _, rows = rows_of(days.folder / "first")
    return ServedModel(find_model(str(days.folder / "run"))).from_packed(rows.ids, rows.dense)


def started(days: Project) -> tuple[Any, Any, dict[str, int]]:
    """A model for the second day and its optimizer, begun with the run; what was taken."""
    spec, config = open_data(days.folder / "both").spec, config_of(days)
    model = build_model(spec, config)
    optimizer = build_optimizer(model, config, tf.Variable(0.0))
    return model, optimizer, warm_start(days.folder / "run", model, optimizer, spec, config)


def test_second_days_spec_differs(days: Project) -> None:
    """So that the tests below mean something."""
    old, new = (open_data(days.folder / name).spec for name in ("data", "both"))
    assert sum(new.sizes) > sum(old.sizes)
    assert old.scales != new.scales
    rows = map_rows(old, new)
    assert (rows.source != FRESH).all()
    assert 0 < (~rows.learned).sum() < len(rows.source)
    assert not map_dense(old, new).is_identity


def test_warm_started_model_predicts_what_the_old_one_did(days: Project) -> None:
    model, _, taken = started(days)
    _, rows = rows_of(days.folder / "second")
    np.testing.assert_allclose(predictions(model, rows), served(days), atol=1e-5)
    assert taken["rows_fresh"] == 0
    assert taken["rows_from_rare"] > 0
    assert taken["rows_taken"] + taken["rows_from_rare"] == sum(open_data(days.folder / "both").spec.sizes)


def test_champion_predicts_what_it_did_and_is_not_trained(days: Project) -> None:
    model = champion_model(str(days.folder / "run"), open_data(days.folder / "both").spec)
    _, rows = rows_of(days.folder / "second")
    np.testing.assert_allclose(predictions(model, rows), served(days), atol=1e-5)
    assert model.trainable_variables == []


def test_slots_of_values_that_were_known_are_theirs_and_others_begin_anew(days: Project) -> None:
    model, optimizer, _ = started(days)
    slots = slots_of(optimizer, model.named_weights())
    rows = map_rows(*(open_data(days.folder / name).spec for name in ("data", "both")))
    sums = slots["table"]["accumulator"].numpy()
    new = ~rows.learned[: len(sums)]
    np.testing.assert_array_equal(sums[new], np.float32(1e-7))
    assert (sums[~new] > 1e-6).any()
    # Most weights of the layers have had a gradient, and none starts with the bold step of a new one.
    assert (slots["hidden_0.kernel"]["accumulator"].numpy() > 1e-6).mean() > 0.5


def test_ftrl_keeps_the_weights_it_was_given(days: Project) -> None:
    """With a gradient of 0 it works out the very same ones."""
    model, optimizer, _ = started(days)
    before = model.wide.numpy(), model.wide_dense.numpy()
    assert np.abs(before[0]).max() > 0
    ftrl = optimizer.optimizers[0]
    ftrl.apply_gradients([(tf.zeros_like(variable), variable) for variable in (model.wide, model.wide_dense)])
    np.testing.assert_allclose(model.wide.numpy(), before[0], atol=1e-6)
    np.testing.assert_allclose(model.wide_dense.numpy(), before[1], atol=1e-6)


def test_other_shape_and_folder_that_is_no_run_are_refused(days: Project) -> None:
    spec, config = open_data(days.folder / "both").spec, config_of(days, model__embedding_dim="6")
    model = build_model(spec, config)
    optimizer = build_optimizer(model, config, tf.Variable(0.0))
    with pytest.raises(BadInput, match=r"has table of shape .* the new model .*; use the same model"):
        warm_start(days.folder / "run", model, optimizer, spec, config)
    with pytest.raises(BadInput, match="is no run folder; a warm start takes what the optimizer had learned"):
        warm_start(find_model(str(days.folder / "run")), model, optimizer, spec, config)


def test_run_that_starts_warm_is_ahead_of_one_that_starts_cold(days: Project) -> None:
    """After a tenth of an epoch on the second day's rows."""
    short = tiny(codistillation__groups="1", train__epochs="0.1")
    cold = days.ctr("train", "both", "--out", "cold", *short, "--json").result
    warm = days.ctr("train", "both", "--out", "warm", *short, "train.warm_start=run", "--json").result
    assert warm["log_loss"] < cold["log_loss"] - 0.003


def test_champion_keeps_predictions_close_to_its_own(days: Project) -> None:
    """One group that learns from yesterday's model, against one that does not."""
    settings = tiny(codistillation__groups="1", codistillation__burn_in_epochs="0", train__seed="8")
    days.ctr("train", "both", "--out", "free", *settings, "--json").result
    days.ctr("train", "both", "--out", "held", *settings, "codistillation.champion=run", "--json").result
    _, rows = rows_of(days.folder / "second")
    spec, old = open_data(days.folder / "both").spec, served(days)
    churn = {
        name: float(np.abs(predictions(champion_model(str(days.folder / name), spec), rows) - old).mean())
        for name in ("free", "held")
    }
    assert churn["held"] < 0.8 * churn["free"]
