"""`ctr export`: the SavedModel as it is, with tables in 16 bits, or of all groups; and what a card records."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
from conftest import Done, Project, tiny
from helpers import SMALL, ignore, prepare_small, small_log
from numpy.typing import NDArray

import ctr  # noqa: F401 - sets TensorFlow to Keras 2
from ctr.build import build_model
from ctr.config import load_config
from ctr.data import in_order, labels_of, open_data
from ctr.metrics import evaluate
from ctr.recorded import mean_of, recorded
from ctr.runs import find_model, member_model
from ctr.saved import saved_model
from ctr.scoring import predict_with
from ctr.warm import champion_model
from features.encode import encode_dense, encode_ids
from features.errors import BadInput, WorkFailed
from features.schema import Numeric
from features.spec import RARE
from features.split import Split
from serving.card import read_card
from serving.export import export
from serving.model import ServedModel
from serving.warmup import WARMUP_FILE, made_up_columns

import tensorflow as tf  # isort: skip
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel  # isort: skip  # pyright: ignore

SHORT = ("bfloat16", "float16")


def size_of(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def packed_scores(folder: Path, data: Path, part: str = "test") -> NDArray[np.float64]:
    """What a SavedModel says of a part of prepared data."""
    model, opened = ServedModel(folder), open_data(data)
    batches = in_order(opened.parts[part], 1000)
    return np.concatenate([model.from_packed(rows.ids, rows.dense) for rows in batches]).astype(np.float64)


def members_of(project: Project) -> list[Path]:
    """The SavedModels of the project's pair."""
    return [member_model(project.folder / "run", group) for group in (0, 1)]


class TestRecorded:
    def test_missing_values_are_those_of_the_logs_training_rows(self, project: Project) -> None:
        """The first 80 % of the raw log's lines."""
        lines = (project.folder / "log.tsv").read_text().splitlines()[:3200]
        columns = zip(*(line.split("\t")[1:] for line in lines), strict=True)
        names = [*(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27))]
        expected = {name: column.count("") / 3200 for name, column in zip(names, columns, strict=True)}
        for folder in members_of(project):
            assert read_card(folder)["recorded"]["missing"] == pytest.approx(expected, abs=1e-12)
        assert len({share for share in expected.values() if share > 0}) > 5

    def test_unseen_values_are_the_training_rows_with_the_id_of_rare_ones(self, project: Project) -> None:
        """And `unseen_held_out` of the validation rows, which have new values besides."""
        data = open_data(project.folder / "data")
        found = read_card(find_model(str(project.folder / "run")))["recorded"]
        sums: list[float] = []
        for part, key in (("train", "unseen"), ("validation", "unseen_held_out")):
            ids = np.concatenate([rows.ids for rows in in_order(data.parts[part], 1000)])
            expected = dict(zip(data.spec.id_fields, (ids == RARE).mean(axis=0).tolist(), strict=True))
            assert found[key] == pytest.approx(expected)
            assert len({share for share in expected.values() if share > 0}) > 5
            sums.append(sum(expected.values()))
        assert sums[1] > sums[0]

    def test_scores_are_those_of_the_validation_rows(self, project: Project) -> None:
        for folder in members_of(project):
            scores = packed_scores(folder, project.folder / "data", "validation")
            found = read_card(folder)["recorded"]
            assert (found["rows"], found["scored_on"]) == (400, "validation")
            assert found["mean_prediction"] == pytest.approx(scores.mean(), abs=1e-6)
            assert found["std_prediction"] == pytest.approx(scores.std(), abs=1e-6)
            assert found["deciles"] == pytest.approx([np.quantile(scores, i / 10) for i in range(1, 10)], abs=1e-6)
            assert len(found["deciles"]) == 9

    def test_numbers_without_a_token_are_among_the_fields(self, tmp_path: Path) -> None:
        """`n2` has a dense value alone; it is missing in 46 of the 600 rows, all of which are training rows."""
        schema = SMALL.model_copy(
            update={"numeric": (Numeric(name="n1", min_count=1), Numeric(name="n2", kind="float", token="none"))}
        )
        log = small_log(tmp_path / "log.tsv", 600)
        prepare_small([log], tmp_path / "data", schema=schema, split=Split("none", 0, 0, 0))
        found = recorded(open_data(tmp_path / "data"), "train", np.full(600, 0.5))
        expected = {"n1": 55 / 600, "n2": 46 / 600, "a": 0.1, "b": 0.0}
        assert found["missing"] == pytest.approx(expected, abs=1e-3)
        assert found["missing"]["n2"] == sum(line.split("\t")[2] == "" for line in log.read_text().splitlines()) / 600

    def test_what_cannot_be_known_is_left_out(self, tmp_path: Path) -> None:
        """Scores of training rows flatter; without the report that prepare wrote there are no shares."""
        prepare_small([small_log(tmp_path / "log.tsv", 300)], tmp_path / "data", split=Split("none", 0, 0, 0))
        data = open_data(tmp_path / "data")
        assert set(recorded(data, "train", np.full(300, 0.5))) == {"missing", "unseen"}
        (tmp_path / "data" / "report.json").unlink()
        assert recorded(data, "train", np.full(300, 0.5)) == {}
        assert recorded(data, "test", np.array([0.1, 0.3]))["mean_prediction"] == pytest.approx(0.2)

    def test_of_an_average_the_mean_is_known_and_deciles_are_not(self) -> None:
        each = [
            {"mean_prediction": mean, "std_prediction": 0.1, "deciles": [0.5] * 9, "rows": 7} for mean in (0.2, 0.4)
        ]
        assert mean_of(each) == {"mean_prediction": pytest.approx(0.3), "rows": 7}
        assert mean_of([{}, {}]) == {}


@pytest.fixture(scope="module")
def short(project: Project) -> dict[str, dict[str, Any]]:
    """The project's run exported with tables in 16 bits: results by type."""
    return {
        tables: project.ctr("export", "run", "--out", tables, "--tables", tables, "--json").result for tables in SHORT
    }


@pytest.mark.processes
class TestTables:
    def test_export_without_more_is_the_file_that_training_wrote(self, project: Project) -> None:
        found = project.ctr("export", "run", "--out", "as-trained", "--json").result
        again = project.ctr("export", "run", "--out", "as-trained32", "--tables", "float32", "--json").result
        source = find_model(str(project.folder / "run"))
        assert found["bytes"] == again["bytes"] == size_of(source)
        for path in filter(Path.is_file, source.rglob("*")):
            assert (project.folder / "as-trained" / path.relative_to(source)).read_bytes() == path.read_bytes()
        assert set(found) == {"path", "signatures", "bytes"}
        assert (project.folder / "as-trained" / WARMUP_FILE).is_file()

    @pytest.mark.parametrize("tables", SHORT)
    def test_result_says_what_16_bits_cost_on_the_test_rows(
        self, project: Project, short: dict[str, dict[str, Any]], tables: str
    ) -> None:
        found, data = short[tables], project.folder / "data"
        after, before = (packed_scores(folder, data) for folder in (project.folder / tables, find_run(project)))
        labels = labels_of(open_data(data).parts["test"])
        assert found["log_loss"] == pytest.approx(evaluate(labels, after).log_loss, abs=1e-12)
        assert found["log_loss_float32"] == pytest.approx(evaluate(labels, before).log_loss, abs=1e-12)
        assert found["log_loss_difference"] == found["log_loss"] - found["log_loss_float32"]
        assert found["largest_difference"] == np.abs(after - before).max() > 0
        assert (found["scored_on"], found["rows"]) == ("test", 400)
        # Eight bits of a float16's eleven are lost of a bfloat16.
        assert found["largest_difference"] < {"bfloat16": 0.01, "float16": 0.001}[tables]
        card = read_card(project.folder / tables)
        assert card["tables"] == tables
        assert {key: found[key] for key in card["tables_cost"]} == card["tables_cost"]

    @pytest.mark.parametrize("tables", SHORT)
    def test_tables_take_half_the_bytes_and_other_weights_stay_as_they_are(
        self, project: Project, short: dict[str, dict[str, Any]], tables: str
    ) -> None:
        old, new = (
            tf.train.load_checkpoint(str(folder / "variables" / "variables"))
            for folder in (find_run(project), project.folder / tables)
        )
        names = read_card(find_run(project))["weights"]
        saved = 0
        for i, name in enumerate(names):
            key = f"weights/{i}/.ATTRIBUTES/VARIABLE_VALUE"
            was, now = old.get_tensor(key), new.get_tensor(key)
            if name in ("table", "wide"):
                assert now.dtype.name == tables
                np.testing.assert_array_equal(now, tf.cast(was, tables).numpy())
                saved += was.nbytes - now.nbytes
                assert was.nbytes == 2 * now.nbytes
            else:
                np.testing.assert_array_equal(now, was)
        assert saved > 50_000
        assert short[tables]["bytes"] == size_of(project.folder / tables) < size_of(find_run(project)) - 0.8 * saved

    @pytest.mark.parametrize("tables", SHORT)
    def test_all_signatures_give_the_same(
        self, project: Project, short: dict[str, dict[str, Any]], tables: str
    ) -> None:
        assert short[tables]["signatures"] == ["serving_default", "serialize", "packed"]
        check_signatures(project.folder / tables)

    def test_cost_can_be_measured_on_other_data(self, project: Project) -> None:
        other = ["--spec", "data", "--split", "random", "--set", "prepare.validation=0.5", "--set", "prepare.test=0"]
        project.ctr("prepare", "log.tsv", "--out", "halves", *other, "--json").result
        words = ["--tables", "bfloat16", "--data", "halves", "--json"]
        found = project.ctr("export", "run", "--out", "judged", *words).result
        rows = open_data(project.folder / "halves").parts["validation"].rows
        assert (found["scored_on"], found["rows"]) == ("validation", rows)
        expected = evaluate(
            labels_of(open_data(project.folder / "halves").parts["validation"]),
            packed_scores(find_run(project), project.folder / "halves", "validation"),
        )
        assert found["log_loss_float32"] == pytest.approx(expected.log_loss, abs=1e-12)

    def test_model_with_short_tables_can_be_a_champion_to_learn_from(
        self, project: Project, short: dict[str, dict[str, Any]]
    ) -> None:
        """Its weights are then float32 again."""
        data = open_data(project.folder / "data")
        (rows,) = in_order(data.parts["test"], 1000)
        model = champion_model(str(project.folder / "bfloat16"), data.spec)
        logits = model({"ids": tf.constant(rows.ids), "dense": tf.constant(rows.dense)})
        expected = packed_scores(project.folder / "bfloat16", project.folder / "data")
        np.testing.assert_allclose(tf.sigmoid(logits).numpy()[:, 0], expected, atol=1e-6)
        assert {variable.dtype for variable in model.named_weights().values()} == {tf.float32}

    def test_weight_that_16_bits_cannot_hold_is_an_error(self, project: Project, tmp_path: Path) -> None:
        """Float16 ends at 65,504; bfloat16 has float32's range."""
        data = open_data(project.folder / "data")
        model = build_model(data.spec, load_config(project.folder / "run" / "config.yaml", []))
        model.table.assign(tf.fill(model.table.shape, 1e5))
        logits = lambda ids, dense: model({"ids": ids, "dense": dense})  # noqa: E731
        export(
            logits, list(model.named_weights().values()), data.spec, tmp_path / "large", read_card(find_run(project))
        )
        with pytest.raises(WorkFailed, match="large has weights in table that are too large for float16; use bfloat16"):
            saved_model(tmp_path / "large", "large", "float16")
        assert saved_model(tmp_path / "large", "large", "bfloat16").table.dtype == tf.bfloat16


def find_run(project: Project) -> Path:
    """The SavedModel that the project's run serves."""
    return find_model(str(project.folder / "run"))


def check_signatures(folder: Path) -> NDArray[np.float32]:
    """Raw fields, tf.Examples and packed ids of the same made-up rows score alike; returns the scores."""
    model = ServedModel(folder)
    schema = model.spec.schema
    columns = made_up_columns(schema, 64)
    scores = model.from_columns(columns, 64)
    ids, dense = encode_columns(model, columns)
    np.testing.assert_allclose(model.from_packed(ids, dense), scores, atol=1e-6)
    examples: list[bytes] = []
    for row in zip(*columns.values(), strict=True):
        features: dict[str, Any] = {}
        for name, value in zip(columns, row, strict=True):
            if isinstance(value, str) and value:
                features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))
            elif isinstance(value, float) and not np.isnan(value):
                features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=[int(value)]))
        examples.append(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    np.testing.assert_array_equal(model.from_examples(examples), scores)
    assert len(set(scores.tolist())) > 10
    return scores


def encode_columns(model: ServedModel, columns: dict[str, list[Any]]) -> tuple[Any, Any]:
    """Raw fields as the pipeline encodes them."""
    numbers = {name: pl.Series(columns[name]).fill_nan(None).cast(pl.Int64) for name in model.number_fields}
    texts = {name: [value or None for value in columns[name]] for name in model.text_fields}
    frame = pl.DataFrame({**numbers, **texts})
    return encode_ids(frame, model.spec), encode_dense(frame, model.spec)


class Averaged(NamedTuple):
    """The project's pair as one SavedModel, and what `ctr export --ensemble` said."""

    folder: Path
    result: dict[str, Any]


@pytest.fixture(scope="module")
def averaged(project: Project) -> Averaged:
    result = project.ctr("export", "run", "--out", "average", "--ensemble", "--json").result
    return Averaged(project.folder / "average", result)


@pytest.mark.processes
class TestEnsemble:
    def test_scores_are_the_mean_of_the_members(self, project: Project, averaged: Averaged) -> None:
        each = [packed_scores(folder, project.folder / "data") for folder in members_of(project)]
        assert np.abs(each[0] - each[1]).max() > 0.01
        found = packed_scores(averaged.folder, project.folder / "data")
        np.testing.assert_allclose(found, np.mean(each, axis=0), atol=1e-6, rtol=0)

    def test_so_they_are_by_every_signature(self, project: Project, averaged: Averaged) -> None:
        assert averaged.result["signatures"] == ["serving_default", "serialize", "packed"]
        each = [check_signatures(folder) for folder in members_of(project)]
        np.testing.assert_allclose(check_signatures(averaged.folder), np.mean(each, axis=0), atol=1e-6, rtol=0)

    def test_evaluate_gives_the_figures_of_the_average(self, project: Project, averaged: Averaged) -> None:
        each = [packed_scores(folder, project.folder / "data") for folder in members_of(project)]
        expected = evaluate(labels_of(open_data(project.folder / "data").parts["test"]), np.mean(each, axis=0))
        found = project.ctr("evaluate", averaged.folder, "data", "--json").result
        assert found == pytest.approx(expected.as_dict(), abs=1e-5)
        assert found["log_loss"] == pytest.approx(expected.log_loss, abs=1e-6)

    def test_predict_gives_the_mean_of_what_it_gives_for_the_members(
        self, project: Project, averaged: Averaged, tmp_path: Path
    ) -> None:
        made = project.ctr("predict", averaged.folder, "log.tsv", "--out", tmp_path / "0.parquet", "--json").result
        assert made["rows"] == 4000
        for i, folder in enumerate(members_of(project), start=1):
            predict_with(str(folder), [str(project.folder / "log.tsv")], tmp_path / f"{i}.parquet", ignore, print)
        scores = [pl.read_parquet(tmp_path / f"{i}.parquet")["probability"].cast(pl.Float64) for i in range(3)]
        np.testing.assert_allclose(scores[0], (scores[1] + scores[2]) / 2, atol=1e-6, rtol=0)

    def test_features_are_worked_out_once(self, project: Project, averaged: Averaged) -> None:
        """The graph has as many hashes of strings, and one map of ids, as one member's, and both members' weights."""
        single, both = operations(members_of(project)[0]), operations(averaged.folder)
        assert both["StringToHashBucketFast"] == single["StringToHashBucketFast"] > 20
        assert both["ParseExampleV2"] == single["ParseExampleV2"] > 0
        shapes = [shapes_of(folder) for folder in (members_of(project)[0], averaged.folder)]
        names = [[name for name in each if name.startswith("weights/")] for each in shapes]
        assert len(names[1]) == 2 * len(names[0])
        maps = [[name for name in each if "bucket_ids" in name] for each in shapes]
        assert len(maps[0]) == len(maps[1]) == 1

    def test_card_says_of_what_it_is_the_average(self, project: Project, averaged: Averaged) -> None:
        card, each = read_card(averaged.folder), [read_card(folder) for folder in members_of(project)]
        assert card["ensemble"] == 2
        assert [member["metrics"] for member in card["members"]] == [one["metrics"] for one in each]
        assert [member["run_id"] for member in card["members"]] == [one["run_id"] for one in each]
        assert card["metrics"] == {}
        assert card["data_digest"] == each[0]["data_digest"]
        assert averaged.result["bytes"] == size_of(averaged.folder)
        scores = packed_scores(averaged.folder, project.folder / "data", "validation")
        assert card["recorded"]["mean_prediction"] == pytest.approx(scores.mean(), abs=1e-6)
        assert "deciles" not in card["recorded"]

    def test_its_tables_may_be_in_16_bits_too(self, project: Project, averaged: Averaged) -> None:
        words = ["--ensemble", "--tables", "float16", "--json"]
        found = project.ctr("export", "run", "--out", "average16", *words).result
        data = project.folder / "data"
        expected = evaluate(labels_of(open_data(data).parts["test"]), packed_scores(averaged.folder, data))
        assert found["log_loss_float32"] == pytest.approx(expected.log_loss, abs=1e-7)
        assert 0 < found["largest_difference"] < 0.001
        assert found["bytes"] < averaged.result["bytes"]
        assert read_card(project.folder / "average16")["ensemble"] == 2

    def test_it_is_no_single_model_to_learn_from(self, project: Project, averaged: Averaged) -> None:
        with pytest.raises(BadInput, match="average is the average of 2 models, where one is wanted"):
            champion_model(str(averaged.folder), open_data(project.folder / "data").spec)


def operations(folder: Path) -> Counter[str]:
    """How often each operation is in a SavedModel's functions."""
    found = SavedModel.FromString((folder / "saved_model.pb").read_bytes()).meta_graphs[0].graph_def
    return Counter(node.op for function in found.library.function for node in function.node_def)


def shapes_of(folder: Path) -> dict[str, Any]:
    """The variables of a SavedModel by name."""
    return tf.train.load_checkpoint(str(folder / "variables" / "variables")).get_variable_to_shape_map()


@pytest.mark.processes
class TestRefusals:
    """One line each, and no folder."""

    def refused(self, project: Project, *words: object) -> str:
        before = set(project.folder.iterdir())
        done: Done = project.ctr("export", *words)
        assert done.code == 2
        assert done.out == ""
        assert set(project.folder.iterdir()) == before
        return done.error

    def test_settings_that_make_no_sense(self, project: Project) -> None:
        said = self.refused(project, "run", "--out", "no", "--tables", "bfloat")
        assert "--tables is 'bfloat': did you mean 'bfloat16'?" in said
        said = self.refused(project, "run", "--out", "no", "--data", "data")
        assert "--data data would not be used: it is what the cost of tables in 16 bits is measured on" in said
        said = self.refused(project, "run", "--out", "data", "--ensemble")
        assert "data exists already and is left as it is" in said

    def test_models_that_cannot_be_made_anew(
        self, project: Project, short: dict[str, dict[str, Any]], averaged: Averaged
    ) -> None:
        said = self.refused(project, "bfloat16", "--out", "no", "--tables", "float32")
        assert "bfloat16 has its tables in bfloat16 already; export the run that it comes from" in said
        said = self.refused(project, "bfloat16", "--out", "no", "--ensemble")
        assert "--ensemble takes the groups of a run, and bfloat16 is one model; give a RUN folder" in said
        said = self.refused(project, "average", "--out", "no", "--tables", "float16")
        assert "average is the average of 2 models, where one is wanted" in said

    def test_run_of_one_group_is_no_ensemble(self, project: Project) -> None:
        project.ctr("train", "data", "--out", "alone", *tiny(codistillation__groups="1"), "--json").result
        said = self.refused(project, "alone", "--out", "no", "--ensemble")
        assert "run alone has one group, so that there is nothing to average; leave --ensemble out" in said

    def test_data_that_cannot_be_scored_on(self, project: Project, tmp_path: Path) -> None:
        """Of another spec, without held-out rows, gone; and without labels, which is seen when all else is done."""
        words = ["run", "--out", "no", "--tables", "bfloat16", "--data"]
        project.ctr("prepare", "log.tsv", "--out", tmp_path / "other", "--set", "features.buckets=64", "--json").result
        assert "its ids would mean other values" in self.refused(project, *words, tmp_path / "other")
        whole = ["--spec", "data", "--split", "none", "--json"]
        project.ctr("prepare", "log.tsv", "--out", tmp_path / "whole", *whole).result
        said = self.refused(project, *words, tmp_path / "whole")
        assert "has neither test nor validation rows to score on" in said
        assert "absent is no prepared data: it does not exist" in self.refused(project, *words, "absent")
        lines = (project.folder / "log.tsv").read_text().splitlines()[:500]
        (tmp_path / "raw.tsv").write_text("".join(f"{line.partition(chr(9))[2]}\n" for line in lines))
        project.ctr("prepare", tmp_path / "raw.tsv", "--out", tmp_path / "raw", "--spec", "data", "--json").result
        assert "raw has no labels to evaluate on" in self.refused(project, *words, tmp_path / "raw")

    def test_data_of_the_run_that_are_gone(self, project: Project, tmp_path: Path) -> None:
        shutil.copytree(project.folder / "run", tmp_path / "run")
        about = json.loads((tmp_path / "run" / "run.json").read_text())
        (tmp_path / "run" / "run.json").write_text(json.dumps({**about, "data": str(tmp_path / "gone")}))
        said = self.refused(project, tmp_path / "run", "--out", "no", "--tables", "bfloat16")
        assert f"{tmp_path / 'gone'}, are gone; say what to score on with --data" in said
