"""Prepared folders as batches: each row once an epoch, in an order reached at any step and shared by workers."""

import json
import shutil
from collections.abc import Callable
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from helpers import prepare_small, small_log, whole

from ctr.data import Data, Part, Rows, divided, in_order, is_data, open_data, training_batches
from features.errors import BadInput
from features.schema import Categorical, Schema
from features.split import Split

TRAIN_ROWS = 800


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder of 800, 100 and 100 rows, in shards of about 150."""
    made = tmp_path_factory.mktemp("data")
    prepare_small([small_log(made / "log.tsv", 1000)], made / "out", shard_rows=150)
    return made / "out"


@pytest.fixture(scope="module")
def train(folder: Path) -> Part:
    """Its training part."""
    return open_data(folder).parts["train"]


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def batches(
    part: Part, count: int, *, size: int = 64, seed: int = 0, first: int = 0, worker: int = 0, workers: int = 1
) -> list[Rows]:
    """The first `count` batches from step `first` on."""
    endless = training_batches(part, batch_size=size, seed=seed, first_step=first, worker=worker, workers=workers)
    return list(islice(endless, count))


def numbers(found: list[Rows]) -> list[int]:
    """The row numbers of batches, one after another."""
    return np.concatenate([batch.row for batch in found]).tolist()


def assert_same(found: list[Rows], expected: list[Rows]) -> None:
    """The same rows with the same content in the same batches."""
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        for values, others in zip(one, other, strict=True):
            assert values.dtype == others.dtype
            np.testing.assert_array_equal(values, others)


def test_parts_have_the_rows_of_the_manifest(folder: Path) -> None:
    """And several training shards, so that the tests below mean something."""
    data = open_data(folder)
    assert {name: part.rows for name, part in data.parts.items()} == {"train": 800, "validation": 100, "test": 100}
    assert len(data.parts["train"].shards) == 5
    assert data.digest == data.manifest["digest"]
    assert data.parts["train"].click_rate == pytest.approx(267 / 800)


@pytest.mark.parametrize("size", [1, 64, 100, 800, 801, 2000])
def test_every_row_comes_exactly_once_an_epoch(size: int, train: Part) -> None:
    """In three epochs, whatever the batches are; one may be larger than an epoch."""
    found = numbers(batches(train, -(-3 * TRAIN_ROWS // size), size=size))
    for epoch in range(3):
        assert sorted(found[epoch * TRAIN_ROWS : (epoch + 1) * TRAIN_ROWS]) == list(range(TRAIN_ROWS))


def test_every_batch_is_full(train: Part) -> None:
    """Also the one that holds the end of an epoch and the start of the next."""
    assert {len(batch.row) for batch in batches(train, 40)} == {64}


def test_every_epoch_has_an_order_of_its_own(train: Part) -> None:
    """No row follows the other as before, but by chance."""
    found = numbers(batches(train, 3, size=TRAIN_ROWS))
    orders = [found[start : start + TRAIN_ROWS] for start in (0, 800, 1600)]
    for first, second in ((0, 1), (1, 2), (0, 2)):
        assert len(set(pairwise(orders[first])) & set(pairwise(orders[second]))) < 0.05 * TRAIN_ROWS


def test_order_depends_on_the_seed(train: Part) -> None:
    """And on nothing else."""
    first, again, other = (numbers(batches(train, 20, seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert sum(a == b for a, b in zip(first, other, strict=True)) < 0.05 * len(first)


def test_order_of_the_shards_depends_on_seed_and_epoch(train: Part) -> None:
    """Each of the five comes first with some seeds, and in some epochs."""
    shard_of = {row: i for i, (path, _) in enumerate(train.shards) for row in pl.read_parquet(path)["row"].to_list()}
    by_seed = {shard_of[numbers(batches(train, 1, size=1, seed=seed))[0]] for seed in range(40)}
    by_epoch = {shard_of[numbers(batches(train, 1, size=1, first=TRAIN_ROWS * epoch))[0]] for epoch in range(40)}
    assert by_seed == by_epoch == set(range(5))


def test_rows_of_a_shard_are_shuffled(train: Part, folder: Path) -> None:
    """Not only the shards."""
    found = numbers(batches(train, 1, size=TRAIN_ROWS))
    written = whole(folder)["row"].to_list()
    in_files = [row for path, _ in train.shards for row in pl.read_parquet(path)["row"].to_list()]
    assert sorted(found) == sorted(in_files) == written[:TRAIN_ROWS]
    assert len(set(pairwise(in_files)) & set(pairwise(found))) < 0.05 * TRAIN_ROWS


@pytest.mark.parametrize("step", [1, 7, 12, 13, 25, 40])
def test_starting_at_a_step_gives_the_batches_of_going_there(step: int, train: Part) -> None:
    """Within an epoch, at its end and in later ones."""
    assert_same(batches(train, 15, seed=3, first=step), batches(train, step + 15, seed=3)[step:])


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_shares_of_workers_joined_are_the_batch_of_one(workers: int, train: Part) -> None:
    """In the order of the workers, over the ends of epochs."""
    alone = batches(train, 30, size=60, seed=2, first=5)
    shares = [batches(train, 30, size=60, seed=2, first=5, worker=w, workers=workers) for w in range(workers)]
    joined = [
        Rows(*(np.concatenate(columns) for columns in zip(*parts, strict=True))) for parts in zip(*shares, strict=True)
    ]
    assert {len(share.row) for found in shares for share in found} == {60 // workers}
    assert_same(joined, alone)


def test_rows_keep_their_own_labels_ids_and_dense_values(train: Part, folder: Path) -> None:
    """Whatever batch they are in."""
    found = Rows(*(np.concatenate(columns) for columns in zip(*batches(train, 13, size=64), strict=True)))
    written = whole(folder).filter(pl.col("row") < TRAIN_ROWS)
    place = found.row.astype(np.int64)
    assert found.label.shape == (832, 1)
    np.testing.assert_array_equal(found.label[:, 0], written["label"].to_numpy()[place])
    np.testing.assert_array_equal(found.ids, written.select("^id_.*$").to_numpy()[place])
    np.testing.assert_array_equal(found.dense, written.select("^dense_.*$").to_numpy()[place])


def test_rows_have_the_types_that_models_take(train: Part) -> None:
    """Ids and dense values in the order of the spec's fields."""
    (batch,) = batches(train, 1)
    assert [values.dtype for values in batch] == [np.uint64, np.float32, np.int32, np.float32, np.float32]
    assert [values.shape for values in batch] == [(64,), (64, 1), (64, 4), (64, 2), (64, 1)]


def test_labels_are_those_of_the_log(train: Part) -> None:
    """Every third row of the small log is a click."""
    (batch,) = batches(train, 1, size=TRAIN_ROWS)
    assert (batch.label[:, 0] == (batch.row % 3 == 0)).all()


@pytest.mark.parametrize("size", [1, 30, 100, 1000])
@pytest.mark.parametrize("name", ["train", "test"])
def test_rows_in_order_are_the_shards_one_after_another(size: int, name: str, folder: Path) -> None:
    """Each row once; batches are cut at the end of each shard."""
    part = open_data(folder).parts[name]
    found = list(in_order(part, size))
    expected = [row for path, _ in part.shards for row in pl.read_parquet(path)["row"].to_list()]
    assert numbers(found) == expected
    assert [len(batch.row) for batch in found] == [
        min(size, rows - first) for _, rows in part.shards for first in range(0, rows, size)
    ]


def test_part_without_rows_has_no_batches(tmp_path: Path) -> None:
    """A folder that was not split has rows to train on only."""
    log = small_log(tmp_path / "log.tsv", 50)
    prepare_small([log], tmp_path / "out", split=Split("none", 0, 0, 0))
    assert list(in_order(open_data(tmp_path / "out").parts["test"], 10)) == []


def test_schema_without_numbers_gives_no_dense_columns(tmp_path: Path) -> None:
    """But as many rows."""
    schema = Schema(categorical=(Categorical(name="a", min_count=1),))
    log = tmp_path / "log.tsv"
    log.write_text("".join(f"{i % 2}\tv{i % 7}\n" for i in range(50)), encoding="utf-8")
    prepare_small([log], tmp_path / "out", schema=schema, split=Split("none", 0, 0, 0))
    (batch,) = batches(open_data(tmp_path / "out").parts["train"], 1, size=50)
    assert (batch.ids.shape, batch.dense.shape) == ((50, 1), (50, 0))


def test_folder_is_known_by_its_manifest(folder: Path, tmp_path: Path) -> None:
    """Any other folder, or none, is no prepared data."""
    assert is_data(folder)
    assert not is_data(tmp_path)
    assert not is_data(tmp_path / "nowhere")


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    """The message says what to do."""
    with pytest.raises(BadInput, match=r"nowhere is no prepared data: it does not exist; make it with `ctr prepare`"):
        open_data(tmp_path / "nowhere")


def test_other_folder_is_refused(tmp_path: Path) -> None:
    """It lacks what every prepared folder has."""
    with pytest.raises(BadInput, match=r"has no manifest\.json"):
        open_data(tmp_path)


def test_missing_shard_is_refused_by_name(copy: Path) -> None:
    """Before anything is trained on the rest."""
    lost = sorted((copy / "validation").iterdir())[0]
    lost.unlink()
    with pytest.raises(BadInput, match=f"shard {lost} is missing from prepared data"):
        open_data(copy)


def test_shards_of_another_spec_are_refused(copy: Path, tmp_path: Path) -> None:
    """The ids would mean something else."""
    prepare_small([small_log(tmp_path / "log.tsv", 300, first=5000)], tmp_path / "other")
    for name in ("spec.json", "spec.safetensors"):
        shutil.copy(tmp_path / "other" / name, copy / name)
    with pytest.raises(BadInput, match=f"{copy} was encoded by the spec .* but holds .*; prepare it again"):
        open_data(copy)


def test_folder_without_a_spec_is_refused(copy: Path) -> None:
    """It cannot be known what the ids mean."""
    (copy / "spec.safetensors").unlink()
    with pytest.raises(BadInput, match=f"no feature spec in {copy}"):
        open_data(copy)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda text: text[: len(text) // 2], id="cut"),
        pytest.param(lambda text: "[]", id="a list"),
        pytest.param(lambda text: json.dumps({**json.loads(text), "parts": {}}), id="no parts"),
    ],
)
def test_manifest_that_cannot_be_read_is_refused(damage: Callable[[str], str], copy: Path) -> None:
    """As bad input, and not with a fault of the program's own."""
    path = copy / "manifest.json"
    path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(BadInput, match=str(copy)):
        open_data(copy)


def test_data_may_be_moved(copy: Path, folder: Path) -> None:
    """Shards are found beside the manifest wherever it is."""
    moved: Data = open_data(Path(shutil.move(copy, copy.with_name("elsewhere"))))
    assert_same(batches(moved.parts["train"], 5), batches(open_data(folder).parts["train"], 5))


# Rows divided among groups


def rows_read(part: Part) -> list[int]:
    """The row numbers of one epoch, as they come."""
    return [int(row) for rows in in_order(part, 7) for row in rows.row]


@pytest.mark.parametrize("groups", [2, 3, 4])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.9])
def test_groups_share_what_overlaps_and_divide_the_rest(folder: Path, groups: int, overlap: float) -> None:
    """Nothing is lost, nothing is read twice, and no group has more than a row a shard more than another."""
    whole = open_data(folder).parts["train"]
    parts = [divided(whole, group=g, groups=groups, overlap=overlap, seed=3) for g in range(groups)]
    read = [rows_read(part) for part in parts]
    everything = set(rows_read(whole))
    assert set().union(*read) == everything
    common = set(read[0]).intersection(*read[1:])
    assert len(common) == sum(round(rows * overlap) for _, rows in whole.shards)
    for rows, part in zip(read, parts, strict=True):
        assert len(rows) == len(set(rows)) == part.rows
    assert sum(len(set(rows) - common) for rows in read) == len(everything) - len(common)
    assert max(map(len, read)) - min(map(len, read)) <= len(whole.shards)


def test_divided_part_is_trained_on_in_full_each_epoch(folder: Path) -> None:
    part = divided(open_data(folder).parts["train"], group=1, groups=2, overlap=0.0, seed=3)
    steps = part.rows // 5
    found = [int(row) for rows in batches(part, steps, size=5) for row in rows.row]
    assert len(set(found)) == len(found) == steps * 5
    assert set(found) <= set(rows_read(part))


def test_whole_overlap_divides_nothing(folder: Path) -> None:
    part = open_data(folder).parts["train"]
    assert divided(part, group=1, groups=2, overlap=1.0, seed=3) is part


def test_division_depends_on_the_seed(folder: Path) -> None:
    part = open_data(folder).parts["train"]
    one, other = (divided(part, group=0, groups=2, overlap=0.0, seed=seed) for seed in (1, 2))
    assert rows_read(one) != rows_read(other)
    assert rows_read(one) == rows_read(divided(part, group=0, groups=2, overlap=0.0, seed=1))
