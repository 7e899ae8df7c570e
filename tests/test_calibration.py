"""Calibration: what it makes of known distortions, and that the served graph does what NumPy says."""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
from conftest import Project, tiny
from helpers import ignore, prepare_small, small_log
from mlflow.tracking import MlflowClient
from numpy.typing import NDArray
from runs import assert_equal_weights, weights

# TensorFlow has no types worth the name.
# pyright: reportArgumentType=false
import ctr  # noqa: F401 - sets TensorFlow to Keras 2
from ctr.build import build_model, build_optimizer
from ctr.calibration import Calibration, calibration_figures, fit_calibration
from ctr.config import load_config
from ctr.data import in_order, open_data
from ctr.metrics import auc, chance_calibration_error, evaluate, expected_calibration_error
from ctr.rebuild import rebuild
from ctr.runs import CALIBRATION_FILE, group_folder, member_model, scores_file
from ctr.warm import champion_model, warm_start
from features.errors import BadInput
from serving.card import read_calibration
from serving.export import export
from serving.model import ServedModel
from serving.table import interpolate

import tensorflow as tf  # isort: skip

Array = NDArray[Any]
METHODS = ("isotonic", "platt")


def sigmoid(logits: Array) -> Array:
    return 1 / (1 + np.exp(-logits))


def simulated(rows: int, seed: int) -> tuple[Array, Array]:
    """True logits `[rows]` about -2 and clicks `[rows]` of these probabilities."""
    random = np.random.default_rng(seed)
    logits = random.normal(-2, 1.3, rows)
    return logits, (random.random(rows) < sigmoid(logits)).astype(np.float64)


def bent(logits: Array) -> Array:
    """A monotone distortion that is no line: twice as steep above -2."""
    return np.where(logits > -2, -2 + 2 * (logits + 2), logits)


def test_platt_undoes_a_known_line() -> None:
    """A model whose logits are (t - b) / a needs a x + b; the tolerance is three standard errors or so."""
    logits, labels = simulated(50_000, 0)
    found = fit_calibration("platt", labels, sigmoid((logits - 0.4) / 0.7))
    slope = float((found.y[1] - found.y[0]) / (found.x[1] - found.x[0]))
    assert slope == pytest.approx(0.7, abs=0.03)
    assert float(found.of_logits(np.zeros(1))[0]) == pytest.approx(0.4, abs=0.05)


def test_isotonic_undoes_a_bend_that_no_line_can() -> None:
    """On the rows that it was fitted on to less than chance, on fresh ones to about what chance leaves."""
    logits, labels = simulated(200_000, 1)
    fresh, clicks = simulated(50_000, 2)
    isotonic, platt = (fit_calibration(method, labels, sigmoid(bent(logits))) for method in METHODS)
    fitted = isotonic.apply(sigmoid(bent(logits)))
    assert expected_calibration_error(labels, fitted) < chance_calibration_error(fitted)
    chance = chance_calibration_error(sigmoid(fresh))
    before = expected_calibration_error(clicks, sigmoid(bent(fresh)))
    after = expected_calibration_error(clicks, isotonic.apply(sigmoid(bent(fresh))))
    assert after < 1.5 * chance < 5 * chance < before
    assert expected_calibration_error(clicks, platt.apply(sigmoid(bent(fresh)))) > 2 * chance
    np.testing.assert_allclose(isotonic.apply(sigmoid(bent(fresh))).mean(), sigmoid(fresh).mean(), rtol=0.02)
    assert 20 < len(isotonic.x) <= 200


def test_ranking_stays() -> None:
    logits, labels = simulated(50_000, 3)
    predictions = sigmoid(bent(logits))
    isotonic, platt = (fit_calibration(method, labels, predictions).apply(predictions) for method in METHODS)
    assert auc(labels, platt) == pytest.approx(auc(labels, predictions), abs=1e-12)
    # Ties are made where the data say that the ranks were wrong: on these rows they can only help.
    assert auc(labels, isotonic) > auc(labels, predictions)
    order = np.argsort(predictions)
    assert (np.diff(isotonic[order]) >= 0).all()
    assert (np.diff(platt[order]) > 0).all()


def test_isotonic_by_hand() -> None:
    """Eight rows make four bins of two; clicks 0, 1, 0, 2 and 3/8 of a click more each; the middle two are pooled."""
    logits = np.array([-4.0, -3, -2, -1, 0, 1, 2, 4])
    found = fit_calibration("isotonic", np.array([0.0, 0, 0, 1, 0, 0, 1, 1]), sigmoid(logits))
    np.testing.assert_allclose(found.x, [-3.5, -1.5, 0.5, 3.0], atol=1e-6)
    steps = np.array([0.375, 0.875, 0.875, 2.375]) / 3
    np.testing.assert_allclose(sigmoid(found.y.astype(np.float64)), steps, atol=1e-6)
    middle = sigmoid(np.array([(found.y[0] + found.y[1]) / 2], np.float64))
    np.testing.assert_allclose(found.apply(sigmoid(np.array([-2.5]))), middle, atol=1e-6)
    np.testing.assert_allclose(found.apply(np.array([0.0, 1.0])), steps[[0, -1]], atol=1e-6)


def test_a_long_step_has_two_knots() -> None:
    """Where clicks fall as predictions rise all bins are pooled into one step."""
    predictions = np.linspace(0.1, 0.9, 8000)
    found = fit_calibration("isotonic", (predictions < 0.5).astype(np.float64), predictions)
    assert len(found.x) == 2
    np.testing.assert_allclose(found.apply(predictions), 0.5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_no_prediction_becomes_0_or_1(method: Any) -> None:
    """Even where clicks can be told with certainty, and where a float32 probability is 0 or 1 itself."""
    logits = np.linspace(-6, 6, 1000)
    found = fit_calibration(method, (logits > 0).astype(np.float64), sigmoid(logits))
    given = np.concatenate([sigmoid(logits), [0.0, 1.0]]).astype(np.float32)
    assert 0 < found.apply(given).min() < found.apply(given).max() < 1
    assert np.isfinite(found.y).all()


@pytest.mark.parametrize("method", METHODS)
def test_weights_count_as_repeated_rows(method: Any) -> None:
    logits, labels = simulated(3000, 4)
    predictions, times = sigmoid(bent(logits)), np.random.default_rng(0).integers(0, 4, 3000)
    weighted = fit_calibration(method, labels, predictions, times.astype(np.float64))
    repeated = fit_calibration(method, np.repeat(labels, times), np.repeat(predictions, times))
    plain = fit_calibration(method, labels, predictions)
    np.testing.assert_allclose(weighted.x, repeated.x, atol=1e-6)
    np.testing.assert_allclose(weighted.y, repeated.y, atol=1e-5)
    assert np.abs(weighted.apply(predictions) - plain.apply(predictions)).max() > 1e-3


def test_ranks_that_are_worse_than_chance_are_not_turned_round() -> None:
    """Platt's best line would fall: it is level, at the click rate."""
    logits, labels = simulated(5000, 5)
    found = fit_calibration("platt", labels, sigmoid(-logits))
    np.testing.assert_allclose(found.apply(sigmoid(logits)), labels.mean(), atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_predictions_that_are_all_alike_become_the_click_rate(method: Any) -> None:
    labels = (np.arange(100) < 30).astype(np.float64)
    found = fit_calibration(method, labels, np.full(100, 0.2))
    assert found.apply(np.array([0.2]))[0] == pytest.approx(0.3, abs=1e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("labels", [[], [0.0, 0.0], [1.0, 1.0]])
def test_rows_of_one_label_are_refused(method: Any, labels: list[float]) -> None:
    with pytest.raises(BadInput, match="takes rows of both labels"):
        fit_calibration(method, np.array(labels), np.full(len(labels), 0.5))
    with pytest.raises(BadInput, match="with 0 clicks"):
        fit_calibration(method, np.array([0.0, 1.0]), np.array([0.1, 0.2]), np.array([1.0, 0.0]))


def test_figures_are_those_of_an_evaluation_before_and_after() -> None:
    logits, labels = simulated(4000, 6)
    predictions, mass = sigmoid(bent(logits)), np.linspace(0.5, 1.5, 4000)
    found = fit_calibration("isotonic", labels, predictions, mass)
    before = evaluate(labels, predictions, mass)
    after = evaluate(labels, found.apply(predictions), mass)
    assert calibration_figures(found, labels, predictions, mass) == {
        "method": "isotonic",
        "log_loss_before": before.log_loss,
        "log_loss_after": after.log_loss,
        "ece_before": before.ece,
        "ece_after": after.ece,
        "rows": 4000,
    }
    assert after.log_loss < before.log_loss


@pytest.mark.parametrize("method", METHODS)
def test_json_keeps_every_bit(method: Any) -> None:
    logits, labels = simulated(2000, 7)
    found = fit_calibration(method, labels, sigmoid(logits))
    again = Calibration.from_json(found.to_json())
    assert again.method == method
    assert again.x.dtype == again.y.dtype == np.float32
    np.testing.assert_array_equal(again.x, found.x)
    np.testing.assert_array_equal(again.y, found.y)


def test_lookup_in_tensorflow_is_numpys() -> None:
    """At knots, between them, beyond the ends, with a single knot, and for what is no number."""
    values = np.array([-np.inf, -5, -1, -0.25, 0, 0.7, 2, 3, np.inf], np.float32)
    for x, y in (([-1.0, 0.0, 2.0], [-3.0, -1.0, -1.0]), ([0.5], [0.25])):
        np.testing.assert_allclose(interpolate(tf.constant(values), x, y).numpy(), np.interp(values, x, y), rtol=1e-12)
        assert np.isnan(interpolate(tf.constant([np.nan], tf.float32), x, y).numpy()).all()


@pytest.mark.parametrize("method", METHODS)
def test_exported_graph_agrees_with_numpy_on_any_logit(method: Any, tmp_path: Path) -> None:
    """Of a model whose logit is its first dense value, so that logits can be chosen."""
    prepare_small([small_log(tmp_path / "log.tsv", 200)], tmp_path / "data")
    spec = open_data(tmp_path / "data").spec
    logits, labels = simulated(20_000, 8)
    found = fit_calibration(method, labels, sigmoid(bent(logits)))
    scale = tf.Variable(1.0)
    export(lambda ids, dense: scale * dense[:, :1], [scale], spec, tmp_path / "model", {}, (found.x, found.y))
    random = np.random.default_rng(9)
    given = np.concatenate([random.normal(-2, 4, 9000), random.uniform(-60, 60, 998), [-1e30, 1e30]]).astype(np.float32)
    assert given.min() < found.x[0] < found.x[-1] < given.max()
    dense = np.zeros((len(given), len(spec.dense_fields)), np.float32)
    dense[:, 0] = given
    served = ServedModel(tmp_path / "model").from_packed(np.zeros((len(given), len(spec.id_fields)), np.int32), dense)
    np.testing.assert_allclose(served, sigmoid(found.of_logits(given)), atol=1e-6, rtol=0)
    # A probability in float64 says the same as its logit.
    near = np.abs(given) < 15
    np.testing.assert_allclose(served[near], found.apply(sigmoid(given[near].astype(np.float64))), atol=1e-6, rtol=0)


class Trained(NamedTuple):
    """A run of one group with a calibration, what its group says of itself, and what was printed for people."""

    run: Path
    result: dict[str, Any]
    said: str

    @property
    def model(self) -> ServedModel:
        return ServedModel(member_model(self.run, 0))

    @property
    def calibration(self) -> Calibration:
        return Calibration.from_json((group_folder(self.run, 0) / CALIBRATION_FILE).read_text())


@pytest.fixture(scope="module")
def plain(project: Project) -> Path:
    """One group without a calibration."""
    project.ctr("train", "data", "--out", "plain", *tiny(codistillation__groups="1"), "--json").result
    assert not (group_folder(project.folder / "plain", 0) / CALIBRATION_FILE).exists()
    return project.folder / "plain"


@pytest.fixture(scope="module")
def isotonic(project: Project) -> Trained:
    """The same with isotonic regression, by `ctr train`."""
    settings = tiny(codistillation__groups="1", train__calibration="isotonic")
    done = project.ctr("train", "data", "--out", "isotonic", *settings, "--json")
    (member,) = done.result["members"]
    assert done.result["calibration"] == member["calibration"]
    return Trained(project.folder / "isotonic", member, done.err)


@pytest.fixture(scope="module")
def platt(project: Project, isotonic: Trained) -> Trained:
    """The same with Platt's, by `ctr worker`, as a scheduler starts it, with scores of the validation part."""
    run = project.folder / "platt"
    run.mkdir()
    text = (isotonic.run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("calibration: isotonic", "calibration: platt"))
    environment = {"CTR_GROUP": "0", "CTR_GROUPS": "1"}
    done = project.ctr("worker", "data", "--out", "platt", "--score", "validation", env=environment)
    assert done.code == 0, done.err
    return Trained(run, json.loads((group_folder(run, 0) / "result.json").read_text()), done.out)


@pytest.fixture(params=METHODS)
def trained(request: pytest.FixtureRequest) -> Trained:
    return request.getfixturevalue(request.param)


def raw_rows(project: Project) -> list[dict[str, Any]]:
    """The first 500 rows of the log by field, without those that are missing."""
    names = [*(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27))]
    lines = (project.folder / "log.tsv").read_text().splitlines()[:500]
    rows = [zip(names, line.split("\t")[1:], strict=True) for line in lines]
    return [{name: int(text) if name[0] == "I" else text for name, text in row if text} for row in rows]


def example(row: dict[str, Any]) -> bytes:
    features = {
        name: tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        if isinstance(value, int)
        else tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))
        for name, value in row.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


@pytest.mark.processes
def test_every_signature_gives_the_calibrated_probability(project: Project, plain: Path, trained: Trained) -> None:
    rows = raw_rows(project)
    model, without = trained.model, ServedModel(member_model(plain, 0))
    columns = {
        **{name: [row.get(name, float("nan")) for row in rows] for name in model.number_fields},
        **{name: [row.get(name, "") for row in rows] for name in model.text_fields},
    }
    own = without.from_columns(columns, len(rows))
    expected = trained.calibration.apply(own)
    assert np.abs(expected - own).max() > 0.01
    np.testing.assert_allclose(model.from_columns(columns, len(rows)), expected, atol=1e-6, rtol=0)
    np.testing.assert_allclose(model.from_examples([example(row) for row in rows]), expected, atol=1e-6, rtol=0)
    (batch,) = in_order(open_data(project.folder / "data").parts["validation"], 1000)
    expected = trained.calibration.apply(without.from_packed(batch.ids, batch.dense))
    np.testing.assert_allclose(model.from_packed(batch.ids, batch.dense), expected, atol=1e-6, rtol=0)


@pytest.mark.processes
def test_extreme_logit_is_served_as_the_table_says(project: Project, plain: Path, trained: Trained) -> None:
    """Dense values a million times what they are: probabilities of 0 and 1 before, and inside after."""
    (batch,) = in_order(open_data(project.folder / "data").parts["validation"], 1000)
    own = ServedModel(member_model(plain, 0)).from_packed(batch.ids, batch.dense * np.float32(1e6))
    extreme = (own < 1e-7) | (own == 1)
    assert (own[extreme] < 0.5).any()
    assert (own[extreme] > 0.5).any()
    served = trained.model.from_packed(batch.ids, batch.dense * np.float32(1e6))
    np.testing.assert_allclose(served[extreme], trained.calibration.apply(own[extreme]), atol=1e-6, rtol=0)
    assert 0 < served.min() < served.max() < 1


@pytest.mark.processes
def test_training_is_the_same_with_and_without(plain: Path, trained: Trained) -> None:
    assert_equal_weights(weights(trained.run, 0), weights(plain, 0))
    without = json.loads((group_folder(plain, 0) / "result.json").read_text())
    assert trained.result["log_loss"] == without["log_loss"] == trained.result["calibration"]["log_loss_before"]
    assert "calibration" not in without


@pytest.mark.processes
def test_result_card_and_mlflow_have_the_figures(project: Project, plain: Path, trained: Trained) -> None:
    figures = trained.result["calibration"]
    assert figures["method"] == trained.calibration.method
    assert figures["rows"] == 400
    found = project.ctr("evaluate", member_model(trained.run, 0), "data", "--part", "validation", "--json").result
    assert found["log_loss"] == pytest.approx(figures["log_loss_after"], abs=1e-6)
    assert found["ece"] == pytest.approx(figures["ece_after"], abs=1e-6)
    assert figures["log_loss_after"] < figures["log_loss_before"]
    assert trained.model.card["calibration"] == figures
    assert ServedModel(member_model(plain, 0)).card["calibration"] is None
    metrics = MlflowClient(f"sqlite:///{project.folder}/mlflow.db").get_run(trained.result["run_id"]).data.metrics
    names = ("log_loss_before", "log_loss_after", "ece_before", "ece_after")
    assert {name: metrics[name] for name in names} == {name: figures[name] for name in names}


@pytest.mark.processes
def test_card_records_calibrated_scores(project: Project, trained: Trained) -> None:
    """They are what a server will see."""
    batches = in_order(open_data(project.folder / "data").parts["validation"], 1000)
    served = np.concatenate([trained.model.from_packed(rows.ids, rows.dense) for rows in batches])
    found = trained.model.card["recorded"]
    assert found["mean_prediction"] == pytest.approx(served.mean(), abs=1e-6)
    assert found["deciles"] == pytest.approx([np.quantile(served, i / 10) for i in range(1, 10)], abs=1e-6)


@pytest.mark.processes
def test_model_made_anew_keeps_its_calibration(project: Project, trained: Trained, tmp_path: Path) -> None:
    """In float32 to the last bit or so, in bfloat16 nearly; alone, and in an average."""
    (rows,) = in_order(open_data(project.folder / "data").parts["validation"], 1000)
    member, expected = member_model(trained.run, 0), trained.model.from_packed(rows.ids, rows.dense)
    assert read_calibration(member) == (trained.calibration.x.tolist(), trained.calibration.y.tolist())
    for name, members, tables, most in (
        ("whole", [member], "float32", 1e-6),
        ("short", [member], "bfloat16", 0.02),
        ("both", [member, member], "float32", 1e-6),
    ):
        rebuild(members, tmp_path / name, tables=tables, data=None, progress=ignore)
        found = ServedModel(tmp_path / name).from_packed(rows.ids, rows.dense)
        np.testing.assert_allclose(found, expected, atol=most, rtol=0)
    assert read_calibration(tmp_path / "short") == read_calibration(member)


@pytest.mark.processes
def test_model_that_lost_the_table_of_its_calibration_is_not_made_anew(isotonic: Trained, tmp_path: Path) -> None:
    shutil.copytree(member_model(isotonic.run, 0), tmp_path / "model")
    (tmp_path / "model" / "assets" / "calibration.json").unlink()
    with pytest.raises(BadInput, match="model has a calibration but not its table; train it anew"):
        rebuild([tmp_path / "model"], tmp_path / "again", tables="float16", data=None, progress=ignore)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.processes
def test_people_are_told(isotonic: Trained, platt: Trained) -> None:
    figures = isotonic.result["calibration"]
    losses = f"log loss {figures['log_loss_before']:.5f} to {figures['log_loss_after']:.5f}"
    line = f"group 0: isotonic calibration on the 400 rows that it was fitted on: {losses}, calibration error "
    assert line in " ".join(isotonic.said.split())
    events = [json.loads(line) for line in platt.said.splitlines()]
    (told,) = (event for event in events if event.get("event") == "calibration")
    assert told == {"event": "calibration", "step": 50, **platt.result["calibration"]}


@pytest.mark.processes
def test_scores_are_the_models_own(platt: Trained) -> None:
    scores = pl.read_parquet(scores_file(platt.run, 0, "validation"))
    found = evaluate(scores["label"].to_numpy().astype(np.float64), scores["probability"].to_numpy())
    assert found.log_loss == platt.result["calibration"]["log_loss_before"]


@pytest.mark.processes
def test_champion_and_warm_start_take_the_weights_alone(project: Project, plain: Path, isotonic: Trained) -> None:
    """A model that was calibrated teaches, and is gone on with, as one that was not."""
    data = open_data(project.folder / "data")
    config = load_config(isotonic.run / "config.yaml", [])
    begun: list[dict[str, Any]] = []
    for run in (plain, isotonic.run):
        champion = champion_model(str(run), data.spec)
        model = build_model(data.spec, config)
        optimizer = build_optimizer(model, config, tf.Variable(0.0))
        taken = warm_start(run, model, optimizer, data.spec, config)
        assert taken["rows_taken"] > 1000
        both = {"champion": champion, "model": model}
        begun.append({f"{k}/{n}": v.numpy() for k, each in both.items() for n, v in each.named_weights().items()})
    assert_equal_weights(*begun)


@pytest.mark.processes
def test_calibrated_model_passes_the_gate(project: Project, isotonic: Trained, tmp_path: Path) -> None:
    """Served and encoded rows have to agree to 1e-6 for that, after the calibration too."""
    # A registry of its own: the versions of the project's are counted elsewhere.
    own = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    done = project.ctr("promote", "isotonic", "--alias", "calibrated", "--json", env=own)
    said = json.loads(done.out)
    assert any(reason.startswith("same online as offline") for reason in said["reasons"])
    assert said["passed"] is True, said["failed"]
    found = project.ctr("evaluate", "models:/ctr@calibrated", "data", "--json", env=own).result
    assert found["log_loss"] == pytest.approx(said["log_loss"], abs=1e-12)
    assert found["log_loss"] == project.ctr("evaluate", "isotonic", "data", "--json").result["log_loss"]


@pytest.mark.processes
def test_data_without_validation_rows_are_refused_before_anything_starts(project: Project) -> None:
    small = ["--set", "features.buckets=4096", "--set", "prepare.validation=0"]
    project.ctr("prepare", "log.tsv", "--out", "unvalidated", *small, "--json").result
    refused = project.ctr("train", "unvalidated", "--out", "refused", *tiny(train__calibration="platt"))
    assert refused.code == 2
    assert "train.calibration=platt is fitted on validation rows of both labels" in refused.error
    assert "unvalidated has no rows; prepare it with a larger one" in refused.error
    assert not (project.folder / "refused").exists()
