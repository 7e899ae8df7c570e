"""A small model with times, quantiles and weights, exported: every way in gives what the prepared folder gives."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers import ignore, prepare_small
from numpy.typing import NDArray
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog  # pyright: ignore

import ctr  # noqa: F401 - sets TensorFlow to Keras 2
from ctr.data import in_order, open_data
from ctr.metrics import evaluate
from ctr.model import WideAndDeep
from ctr.scoring import evaluate_model
from features.errors import BadInput
from features.schema import Categorical, Cross, Numeric, Schema, Time
from features.split import Split
from serving.export import export
from serving.model import ServedModel
from serving.rows import raw_of_rows
from serving.warmup import WARMUP_FILE, made_up_columns, write_warmup

import tensorflow as tf  # isort: skip
import tf_keras  # isort: skip

SCHEMA = Schema(
    weight="w",
    time=Time(name="t", format="%y%m%d%H", derive=("hour_of_day", "day_of_week")),
    numeric=(
        Numeric(name="n", min_count=1),
        Numeric(name="q", kind="float", token="quantile", dense="min_max", quantiles=5),
    ),
    categorical=(Categorical(name="a", buckets=100, min_count=1), Categorical(name="b", buckets=500, min_count=1)),
    crosses=(Cross(fields=("a", "b"), buckets=300, min_count=1),),
)


class Served(NamedTuple):
    """An exported model, the rows of a log as a client has them, and what the model gives their encoded form."""

    model: ServedModel
    rows: list[dict[str, Any]]
    expected: NDArray[np.float64]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """300 rows; values of the float field are float32, since a tf.Example has no others."""
    folder = tmp_path_factory.mktemp("export")
    random = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for i in range(300):
        row = {
            "t": f"1410{1 + i % 28:02d}{i % 24:02d}",
            "n": int(random.integers(-5, 10**6)),
            "q": float(np.float32(random.normal(0, 100))),
            "a": f"ä{i % 7}",
            "b": f"b{i % 40}",
        }
        rows.append({name: value for name, value in row.items() if name == "t" or random.random() > 0.1})
    texts = [[str(row.get(name, "")) for name in "tnqab"] for row in rows]
    lines = ["\t".join([str(i % 2), str(0.5 + i % 3), *values]) for i, values in enumerate(texts)]
    (folder / "log.tsv").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    manifest = prepare_small(
        [folder / "log.tsv"], folder / "data", schema=SCHEMA, split=Split("none", 0, 0, 0), shard_rows=1000
    )
    assert manifest["rows"] == 300
    data = open_data(folder / "data")
    tf_keras.utils.set_random_seed(1)
    model = WideAndDeep(
        sizes=data.spec.sizes, cross_count=1, dense_count=2, embedding_dim=3, hidden=[8], click_rate=0.5
    )
    for variable in model.named_weights().values():
        variable.assign(random.normal(size=variable.shape).astype(np.float32))

    def logits(ids: Any, dense: Any) -> Any:
        return model({"ids": ids, "dense": dense})

    export(logits, list(model.named_weights().values()), data.spec, folder / "model", {})
    (encoded,) = in_order(data.parts["train"], 1000)
    expected = 1 / (1 + np.exp(-logits(encoded.ids, encoded.dense).numpy()[:, 0].astype(np.float64)))
    return Served(ServedModel(folder / "model"), rows, expected)


def test_raw_rows_are_served_as_the_pipeline_encodes_them(served: Served) -> None:
    """By the default signature, through the check that a server makes."""
    found = served.model.from_columns(raw_of_rows(served.rows, SCHEMA).columns, len(served.rows))
    np.testing.assert_allclose(found, served.expected, atol=1e-6)
    assert len(set(np.round(found, 5))) > 200


def test_time_may_be_an_integer_in_json(served: Served) -> None:
    """`14102100` is written without quotes by many clients; it means the same."""
    rows = [{**row, "t": int(row["t"])} for row in served.rows]
    columns = raw_of_rows(rows, SCHEMA).columns
    assert columns["t"] == raw_of_rows(served.rows, SCHEMA).columns["t"]
    found = served.model.from_columns(columns, len(rows))
    np.testing.assert_allclose(found, served.expected, atol=1e-6)


@pytest.mark.parametrize("time", [1.5, True, [1, 2], {"hour": 3}, 14102100.0])
def test_time_of_another_type_is_refused(time: object) -> None:
    """By its field."""
    with pytest.raises(BadInput, match=r"row 1: field 't' is .* not a string"):
        raw_of_rows([{}, {"t": time}], SCHEMA, "row")


@pytest.mark.parametrize("given", [None, [None], "", [""]])
def test_missing_time_is_served_as_a_bad_one(given: object, served: Served) -> None:
    """And as one that is left out: fields that come from it are missing, as they are not in any log."""
    absent = {name: value for name, value in served.rows[0].items() if name != "t"}
    rows = [{**served.rows[0], "t": given}, {"t": "soon"}, absent, {}]
    found = served.model.from_columns(raw_of_rows(rows, SCHEMA).columns, 4)
    assert found[0] == found[2]
    assert found[1] == found[3]
    assert found[0] != pytest.approx(served.expected[0], abs=1e-6)


def test_integer_in_a_list_of_one_is_a_time_too(served: Served) -> None:
    """As clients wrap other fields."""
    assert raw_of_rows([{"t": [14102100]}], SCHEMA).columns == {"t": ["14102100"]}


def test_weight_is_no_field_of_a_request() -> None:
    """A row to score has none."""
    with pytest.raises(BadInput, match="unknown field 'w'"):
        raw_of_rows([{"w": 1.0}], SCHEMA)


def test_examples_are_served_as_the_pipeline_encodes_them(served: Served) -> None:
    """Integers as int64, other numbers as float, times and categories as bytes; absent features are missing."""
    examples: list[bytes] = []
    for row in served.rows:
        features: dict[str, Any] = {}
        for name, value in row.items():
            if name == "n":
                features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
            elif name == "q":
                features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
            else:
                features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))
        examples.append(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    np.testing.assert_allclose(served.model.from_examples(examples), served.expected, atol=1e-6)


def test_warm_up_requests_are_read_by_tensorflow_serving_and_answered(served: Served) -> None:
    """Of 1 row and of 64 for each signature, in its own protos, in the inputs that the signature has."""
    records = tf.data.TFRecordDataset(str(served.model.folder / "assets.extra" / "tf_serving_warmup_requests"))
    requests = [PredictionLog.FromString(record.numpy()).predict_log.request for record in records]
    answered: dict[tuple[str, int], NDArray[np.float32]] = {}
    for request in requests:
        assert request.model_spec.name == "ctr"
        signature = served.model.signatures[request.model_spec.signature_name]
        inputs = {name: tf.constant(tf.make_ndarray(tensor)) for name, tensor in request.inputs.items()}
        assert set(inputs) == set(signature.structured_input_signature[1])
        scores = signature(**inputs)["probability"].numpy()
        answered[request.model_spec.signature_name, len(scores)] = scores
    expected = {(name, rows) for name in ("serving_default", "serialize", "packed") for rows in (1, 64)}
    assert set(answered) == expected
    assert len(requests) == len(expected)
    for rows in (1, 64):
        # The same rows, as raw fields and as tf.Examples.
        np.testing.assert_array_equal(answered["serving_default", rows], answered["serialize", rows])
    for scores in answered.values():
        assert ((scores >= 0) & (scores <= 1)).all()
    assert len(set(answered["serving_default", 64].tolist())) > 10


def test_warm_up_requests_have_missing_values_and_none_of_the_log(served: Served) -> None:
    """And times that can be read."""
    columns = made_up_columns(SCHEMA, 64)
    assert {name: len(values) for name, values in columns.items()} == dict.fromkeys("tnqab", 64)
    for name in "nq":
        assert 0 < np.isnan(columns[name]).sum() < 64
    for name in "ab":
        assert 0 < columns[name].count("") < 64
        assert not {row.get(name, "absent") for row in served.rows} & set(columns[name])
    assert all(re.fullmatch(r"2311\d\d\d\d", time) for time in columns["t"])


def test_warm_up_requests_are_the_same_bytes_each_time(served: Served, tmp_path: Path) -> None:
    write_warmup(tmp_path, served.model.spec)
    assert (tmp_path / WARMUP_FILE).read_bytes() == (served.model.folder / WARMUP_FILE).read_bytes()


@pytest.mark.processes
def test_weights_count_in_the_figures_of_raw_rows_as_in_those_of_encoded_ones(served: Served) -> None:
    folder = served.model.folder
    raw = evaluate_model(str(folder), [str(folder.with_name("log.tsv"))], "train", ignore)
    encoded = evaluate_model(str(folder), [str(folder.with_name("data"))], "train", ignore)
    assert raw.pop("rows_rejected") == 0
    assert raw == pytest.approx(encoded, abs=1e-6)
    labels = np.array([i % 2 for i in range(300)], np.float64)
    assert abs(raw["log_loss"] - evaluate(labels, served.expected).log_loss) > 1e-3
