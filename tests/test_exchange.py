"""Snapshots between groups, in a real folder: whole, verified, newest first, and never waited for in vain."""

import hashlib
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from ctr.coding import Undecodable, decode_rows, encode_rows
from ctr.exchange import Changes, Exchange, ExchangeError, Moment, Snapshot, fingerprint
from ctr.snapshot import as_sent
from ctr.store import Store, StoreError

Weights = dict[str, NDArray[np.float32]]

PRINT = "f" * 64


def weights(value: float = 1.0) -> Weights:
    """A matrix, a vector and a scalar."""
    return {
        "embedding": np.full((5, 3), value, np.float32),
        "bias": np.full(4, -value, np.float32),
        "global": np.array(value, np.float32),
    }


def shapes_of(values: Weights) -> dict[str, tuple[int, ...]]:
    """Shapes by name."""
    return {name: each.shape for name, each in values.items()}


SHAPES = shapes_of(weights())


def view(
    folder: Path | str,
    group: int,
    *,
    dtype: str = "float32",
    keep: int = 1000,
    of: str = PRINT,
    shapes: Any = None,
    full_every: int = 10,
) -> Exchange:
    """One group's view of the folder."""
    return Exchange(
        str(folder),
        group=group,
        fingerprint=of,
        shapes=SHAPES if shapes is None else shapes,
        dtype=dtype,
        embeddings={"embedding", "table"},
        keep=keep,
        full_every=full_every,
    )


def at(step: int) -> Moment:
    """A moment of the first phase."""
    return Moment(1, step)


def whole(values: Weights) -> Changes:
    """All of the weights."""
    return Changes(dict(values), {})


def applied(parts: list[Changes], to: Weights | None = None) -> Weights:
    """What a reader that had `to` has after a snapshot."""
    found = {name: values.copy() for name, values in (to or {}).items()}
    for part in parts:
        for name, values in part.weights.items():
            if name in part.rows:
                found[name][part.rows[name]] = values
            else:
                found[name] = values
    return found


def newest(exchange: Exchange, peer: int, since: int = 0) -> Snapshot | None:
    """The newest snapshot for one who has none."""
    return exchange.newest(peer, since=at(since), have=None)


def weights_in(snapshot: Snapshot | None) -> Weights:
    """The weights of a snapshot that stands by itself."""
    assert snapshot is not None
    assert not snapshot.parts[0].rows
    return applied(snapshot.parts)


def files_of(folder: Path, group: int, step: int) -> tuple[Path, Path]:
    """A snapshot's body and manifest."""
    (body,) = (folder / f"group-{group}").glob(f"1-{step:09d}-*.safetensors")
    return body, folder / f"group-{group}" / f"1-{step:09d}.json"


def names_of(folder: Path, group: int) -> list[str]:
    """The names of all files of a group, hidden ones too."""
    return sorted(path.name for path in (folder / f"group-{group}").iterdir())


def moments_of(folder: Path, group: int) -> list[int]:
    """The steps of a group's snapshots that are there."""
    return [int(name[2:11]) for name in names_of(folder, group) if name.endswith(".json") and name[0] == "1"]


def assert_equal(found: dict[str, NDArray[np.float32]], expected: Weights) -> None:
    """The same names, shapes and values, as float32."""
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert found[name].dtype == np.float32
        assert found[name].shape == values.shape
        np.testing.assert_array_equal(found[name], values)


def test_weights_arrive_as_they_were_published(tmp_path: Path) -> None:
    """With group and step; single precision loses nothing."""
    random = np.random.default_rng(0)
    sent = {"a": random.normal(size=(20, 7)).astype(np.float32), "b": random.normal(size=3).astype(np.float32)}
    shapes = shapes_of(sent)
    written = view(tmp_path, 1, shapes=shapes).publish(at(100), whole(sent))
    snapshot = newest(view(tmp_path, 0, shapes=shapes), 1)
    assert snapshot is not None
    assert (snapshot.group, snapshot.moment) == (1, at(100))
    assert_equal(weights_in(snapshot), sent)
    body, manifest = (path.stat().st_size for path in files_of(tmp_path, 1, 100))
    assert (written, snapshot.bytes) == (body + manifest, body)


def test_half_precision_is_within_its_rounding(tmp_path: Path) -> None:
    """Half a unit of eleven bits, relative, and half the smallest step near zero."""
    sent = {
        "w": (np.random.default_rng(1).normal(size=5000) * 10.0 ** np.arange(-10, 5).repeat(1000)[:5000]).astype("f4")
    }
    sent["w"] = np.concatenate([sent["w"], np.array([0, 1, -1, 65504, 1e-7, 2.0**-24], np.float32)])
    shapes = shapes_of(sent)
    half = view(tmp_path, 1, dtype="float16", shapes=shapes).publish(at(1), whole(sent))
    snapshot = newest(view(tmp_path, 0, dtype="float16", shapes=shapes), 1)
    assert snapshot is not None
    found, exact = weights_in(snapshot)["w"].astype(np.float64), sent["w"].astype(np.float64)
    assert (np.abs(found - exact) <= 2.0**-11 * np.abs(exact) + 2.0**-25).all()
    assert found[-6:-2].tolist() == [0, 1, -1, 65504]
    assert half < 0.55 * view(tmp_path, 2).publish(at(1), whole(sent))


def test_eight_bits_are_within_their_rounding(tmp_path: Path) -> None:
    """Half a step of 1/127 of the row's greatest value, whatever its size, and what rounding the scale up adds."""
    random = np.random.default_rng(1)
    table = (random.normal(size=(5000, 16)) * 10.0 ** random.integers(-4, 4, (5000, 1))).astype(np.float32)
    table[:3] = [[0.0] * 16, [1e-9] * 16, [1.0, -1.0] * 8]
    shapes = {"table": table.shape, "bias": (3,)}
    sent = {"table": table, "bias": np.array([1, 0.1, -2], np.float32)}
    eight = view(tmp_path, 1, dtype="int8", shapes=shapes).publish(at(1), whole(sent))
    found = weights_in(newest(view(tmp_path, 0, dtype="int8", shapes=shapes), 1))
    greatest = np.abs(table).max(axis=1, keepdims=True).astype(np.float64)
    # A float16 scale is off by 1/1024 at most, or one of its smallest steps.
    step = greatest / 127 * (1 + 2.0**-10) + 2.0**-24
    assert (np.abs(found["table"].astype(np.float64) - table) <= step / 2 + 1e-9).all()
    assert (found["table"][0] == 0).all()
    np.testing.assert_array_equal(found["bias"], sent["bias"].astype(np.float16))
    assert eight < 0.29 * table.nbytes


def test_fingerprint_depends_on_names_shapes_and_spec_alone() -> None:
    """Not on values nor on the order of the names."""
    first = fingerprint(weights(1.0), "spec")
    assert first == fingerprint(dict(reversed(weights(2.0).items())), "spec")
    others = [
        fingerprint(weights(), "other spec"),
        fingerprint({**weights(), "more": np.zeros(1)}, "spec"),
        fingerprint({**weights(), "bias": np.zeros(5)}, "spec"),
        fingerprint({**weights(), "embedding": np.zeros((3, 5))}, "spec"),
    ]
    assert len({first, *others}) == 5


def test_nothing_is_there_before_the_manifest(tmp_path: Path) -> None:
    """The body alone is not seen, neither as the newest nor by one who waits."""
    view(tmp_path, 1).publish(at(5), whole(weights()))
    manifest = files_of(tmp_path, 1, 5)[1]
    manifest.rename(tmp_path / "kept")
    reader = view(tmp_path, 0)
    assert newest(reader, 1, 0) is None
    assert reader.wait_for(1, at(5), timeout=0.05, have=None) is None
    (tmp_path / "kept").rename(manifest)
    found = newest(reader, 1, 0)
    assert found is not None
    assert found.moment == at(5)


def test_reader_beside_a_writer_sees_whole_snapshots_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While sixty are published, each that is read has the weights of its step and none is refused."""
    sent = {step: {"w": np.full(20_000, step, np.float32)} for step in range(1, 61)}
    shapes = {"w": (20_000,)}
    writer, reader = view(tmp_path, 1, shapes=shapes), view(tmp_path, 0, shapes=shapes)
    thread = threading.Thread(target=lambda: [writer.publish(at(step), whole(values)) for step, values in sent.items()])
    seen: list[int] = []
    with caplog.at_level(logging.WARNING, logger="ctr"):
        thread.start()
        deadline = time.monotonic() + 60
        while (not seen or seen[-1] < 60) and time.monotonic() < deadline:
            snapshot = newest(reader, 1, 0)
            if snapshot is not None:
                assert_equal(weights_in(snapshot), sent[snapshot.moment.step])
                seen.append(snapshot.moment.step)
        thread.join()
    assert seen[-1] == 60
    assert seen == sorted(seen)
    assert caplog.records == []


def test_newest_is_the_highest_step(tmp_path: Path) -> None:
    """As a number, and not the one written last."""
    writer = view(tmp_path, 1, keep=100)
    for step in (900, 1000, 20, 123_456_789):
        writer.publish(at(step), whole(weights(step)))
    snapshot = newest(view(tmp_path, 0), 1)
    assert snapshot is not None
    assert snapshot.moment == at(123_456_789)


def test_since_leaves_out_what_is_older(tmp_path: Path) -> None:
    """The step itself still counts."""
    writer, reader = view(tmp_path, 1), view(tmp_path, 0)
    writer.publish(at(10), whole(weights()))
    writer.publish(at(20), whole(weights()))
    assert [found.moment.step if (found := newest(reader, 1, since)) else None for since in (0, 20, 21)] == [
        20,
        20,
        None,
    ]


def test_peer_that_never_published_has_no_snapshot(tmp_path: Path) -> None:
    """Nor a folder."""
    assert newest(view(tmp_path, 0), 7) is None


def test_groups_do_not_see_one_another_s_snapshots_as_their_own(tmp_path: Path) -> None:
    """Each group has its own."""
    view(tmp_path, 1).publish(at(3), whole(weights(1)))
    view(tmp_path, 2).publish(at(4), whole(weights(2)))
    reader = view(tmp_path, 0)
    found = {peer: newest(reader, peer, 0) for peer in (1, 2)}
    assert {peer: snapshot.moment.step for peer, snapshot in found.items() if snapshot} == {1: 3, 2: 4}


def edit_manifest(change: Callable[[dict[str, object]], object]) -> Callable[[Path, Path], None]:
    """A damage to what the manifest says."""

    def damage(body: Path, manifest: Path) -> None:
        said = json.loads(manifest.read_text(encoding="utf-8"))
        change(said)
        manifest.write_text(json.dumps(said), encoding="utf-8")

    return damage


def flip_a_byte(body: Path, manifest: Path) -> None:
    """Changes one bit of the weights."""
    content = bytearray(body.read_bytes())
    content[-5] ^= 1
    body.write_bytes(content)


def truncate(body: Path, manifest: Path) -> None:
    """Cuts the end off the weights."""
    body.write_bytes(body.read_bytes()[:-10])


def empty(body: Path, manifest: Path) -> None:
    """Leaves nothing of the weights."""
    body.write_bytes(b"")


def put_nonsense_with_its_digest(body: Path, manifest: Path) -> None:
    """Puts something else in place of the weights, with the digest to go with it."""
    replace(body, manifest, b"nonsense")


def replace(body: Path, manifest: Path, content: bytes) -> None:
    """Another body, which the manifest takes for its own."""
    digest = hashlib.sha256(content).hexdigest()
    body.with_name(f"{manifest.stem}-{digest[:12]}.safetensors").write_bytes(content)
    said = json.loads(manifest.read_text(encoding="utf-8"))
    manifest.write_text(json.dumps({**said, "sha256": digest}), encoding="utf-8")


def put_arrays(change: Callable[[dict[str, Any]], object]) -> Callable[[Path, Path], None]:
    """A damage to the weights themselves, with the digest to go with it."""

    def damage(body: Path, manifest: Path) -> None:
        arrays = load_file(body)
        change(arrays)
        replace(body, manifest, save(arrays))

    return damage


def put_earlier_step(body: Path, manifest: Path) -> None:
    """Puts a whole snapshot of another step in its place."""
    earlier_body, earlier_manifest = files_of(body.parent.parent, 1, 10)
    body.write_bytes(earlier_body.read_bytes())
    manifest.write_bytes(earlier_manifest.read_bytes())


def replace_manifest(content: bytes) -> Callable[[Path, Path], None]:
    """A damage that leaves something else in the manifest's place."""

    def damage(body: Path, manifest: Path) -> None:
        manifest.write_bytes(content)

    return damage


DAMAGES = [
    pytest.param(flip_a_byte, "do not have the digest in its manifest", id="flipped byte"),
    pytest.param(truncate, "do not have the digest in its manifest", id="truncated"),
    pytest.param(empty, "its 0 bytes do not have the digest", id="empty"),
    pytest.param(lambda body, manifest: body.unlink(), "its body is missing", id="no body"),
    pytest.param(put_nonsense_with_its_digest, "SafetensorError", id="nonsense"),
    pytest.param(put_arrays(lambda a: a.update(bias=np.zeros(5, "f4"))), "bias has shape (5,)", id="another shape"),
    pytest.param(put_arrays(lambda a: a.pop("bias")), "instead of ['bias'", id="a weight less"),
    pytest.param(put_arrays(lambda a: a.update(more=a["bias"])), "it has weights", id="a weight more"),
    pytest.param(put_arrays(lambda a: a.update(bias=np.zeros(4, "i4"))), "its bias holds int32", id="whole numbers"),
    pytest.param(
        put_arrays(lambda a: a.update({"bias.scale": np.ones((4, 1), "f2")})), "its bias holds float32", id="a scale"
    ),
    pytest.param(
        put_arrays(lambda a: a.update({"bias.rows": encode_rows(np.arange(4))})), "continues no other", id="only rows"
    ),
    pytest.param(
        put_arrays(lambda a: a.update({"bias.rows": encode_rows(np.arange(5))})),
        "more row numbers than 4",
        id="many rows",
    ),
    pytest.param(
        put_arrays(lambda a: a.update({"bias.rows": encode_rows(np.arange(4))[:-3]})), "is cut short", id="cut rows"
    ),
    pytest.param(
        put_arrays(lambda a: a.update({"bias.rows": np.arange(4, dtype="u4")})),
        "cannot be read",
        id="rows not deflated",
    ),
    pytest.param(put_earlier_step, "its manifest says group 1 phase 1 step 10", id="another step"),
    pytest.param(edit_manifest(lambda said: said.update(sha256=5)), "its body is missing", id="digest of no text"),
    pytest.param(edit_manifest(lambda said: said.update(phase=None)), "cannot be read", id="no phase"),
    *(
        pytest.param(
            edit_manifest(lambda said, base=base: said.update(base=base)), "cannot be read", id=f"base {base!r}"
        )
        for base in (0, "", [])
    ),
    pytest.param(
        edit_manifest(lambda said: said.update(base=[said["phase"], said["step"], said["sha256"]])),
        "which is not before it",
        id="continues itself",
    ),
    pytest.param(
        put_arrays(lambda a: a.update({"global.rows": encode_rows(np.arange(1))})),
        "have no rows",
        id="rows of a scalar",
    ),
    pytest.param(edit_manifest(lambda said: said.update(group=2)), "its manifest says group 2", id="another group"),
    pytest.param(edit_manifest(lambda said: said.update(fingerprint="0" * 64)), "of another model", id="another model"),
    pytest.param(
        edit_manifest(lambda said: said.update(fingerprint=None)), "refused snapshot", id="fingerprint of another type"
    ),
    pytest.param(edit_manifest(lambda said: said.pop("sha256")), "KeyError", id="no digest"),
    pytest.param(replace_manifest(b""), "refused snapshot", id="empty manifest"),
    pytest.param(replace_manifest(b"{"), "refused snapshot", id="half a manifest"),
    pytest.param(replace_manifest(b"[]"), "refused snapshot", id="a list for a manifest"),
    pytest.param(replace_manifest(b"null"), "refused snapshot", id="nothing for a manifest"),
    pytest.param(replace_manifest(b"\xff\xfe\x00"), "refused snapshot", id="bytes for a manifest"),
]


@pytest.mark.parametrize(("damage", "said"), DAMAGES)
def test_unfit_snapshot_is_refused_with_a_warning_and_the_last_good_one_taken(
    damage: Callable[[Path, Path], None], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning names the file and the reason; training goes on with what there is."""
    writer, reader = view(tmp_path, 1), view(tmp_path, 0)
    writer.publish(at(10), whole(weights(1)))
    writer.publish(at(20), whole(weights(2)))
    body, manifest = files_of(tmp_path, 1, 20)
    damage(body, manifest)
    with caplog.at_level(logging.WARNING, logger="ctr"):
        snapshot = newest(reader, 1, 0)
    assert snapshot is not None
    assert snapshot.moment == at(10)
    assert_equal(weights_in(snapshot), weights(1))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(manifest) in record.getMessage()
    assert said in record.getMessage()


@pytest.mark.parametrize(("damage", "said"), DAMAGES)
def test_unfit_snapshot_is_not_what_was_waited_for(
    damage: Callable[[Path, Path], None], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Waiting for a step takes that step or none."""
    writer = view(tmp_path, 1)
    writer.publish(at(10), whole(weights(1)))
    writer.publish(at(20), whole(weights(2)))
    damage(*files_of(tmp_path, 1, 20))
    with caplog.at_level(logging.WARNING, logger="ctr"):
        assert view(tmp_path, 0).wait_for(1, at(20), timeout=5, have=None) is None
    (record,) = caplog.records
    assert said in record.getMessage()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
def test_weights_that_are_not_finite_are_refused(
    value: float, dtype: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One is enough, and a diverged peer does not spread."""
    broken = weights()
    broken["embedding"][4, 2] = value
    view(tmp_path, 1, dtype=dtype).publish(at(10), whole(weights(1)))
    view(tmp_path, 1, dtype=dtype).publish(at(20), whole(broken))
    with caplog.at_level(logging.WARNING, logger="ctr"):
        snapshot = newest(view(tmp_path, 0, dtype=dtype), 1)
    assert snapshot is not None
    assert snapshot.moment == at(10)
    assert "values that are not finite" in caplog.text


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_weights_beyond_half_precision_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They would arrive as infinity."""
    shapes = {"w": (1,)}
    view(tmp_path, 1, dtype="float16", shapes=shapes).publish(at(10), whole({"w": np.array([1e6], np.float32)}))
    with caplog.at_level(logging.WARNING, logger="ctr"):
        assert newest(view(tmp_path, 0, dtype="float16", shapes=shapes), 1) is None
    assert "values that are not finite" in caplog.text


def test_model_of_another_shape_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Fingerprints as models have them."""
    mine, theirs = fingerprint(weights(), "spec"), fingerprint(weights(), "another spec")
    view(tmp_path, 1, of=theirs).publish(at(10), whole(weights()))
    with caplog.at_level(logging.WARNING, logger="ctr"):
        assert newest(view(tmp_path, 0, of=mine), 1) is None
    assert f"{theirs[:12]} instead of {mine[:12]}" in caplog.text


def test_nothing_is_taken_when_all_are_unfit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One warning each."""
    writer = view(tmp_path, 1)
    for step in (10, 20, 30):
        writer.publish(at(step), whole(weights()))
        truncate(*files_of(tmp_path, 1, step))
    with caplog.at_level(logging.WARNING, logger="ctr"):
        assert newest(view(tmp_path, 0), 1) is None
    assert len(caplog.records) == 3


def test_unfit_snapshots_older_than_asked_for_are_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nor warned of."""
    writer = view(tmp_path, 1)
    writer.publish(at(10), whole(weights()))
    writer.publish(at(20), whole(weights()))
    truncate(*files_of(tmp_path, 1, 10))
    truncate(*files_of(tmp_path, 1, 20))
    with caplog.at_level(logging.WARNING, logger="ctr"):
        assert newest(view(tmp_path, 0), 1, 15) is None
    assert len(caplog.records) == 1


def test_old_snapshots_are_removed(tmp_path: Path) -> None:
    """All but the newest, body and manifest; others' are not touched."""
    view(tmp_path, 2).publish(at(1), whole(weights()))
    writer = view(tmp_path, 1, keep=3)
    for step in (100, 200, 300, 400):
        writer.publish(at(step), whole(weights()))
    assert moments_of(tmp_path, 1) == [200, 300, 400]
    assert len(names_of(tmp_path, 1)) == 6
    assert moments_of(tmp_path, 2) == [1]


def test_publishing_a_step_again_replaces_it(tmp_path: Path) -> None:
    """As a resumed run does."""
    writer = view(tmp_path, 1)
    writer.publish(at(10), whole(weights(1)))
    writer.publish(at(10), whole(weights(2)))
    snapshot = newest(view(tmp_path, 0), 1)
    assert snapshot is not None
    assert_equal(weights_in(snapshot), weights(2))
    assert len(names_of(tmp_path, 1)) == 2


def test_reader_in_the_middle_of_a_file_reads_it_to_its_end(tmp_path: Path) -> None:
    """What is published anew takes the place of the old files and is not written into them."""
    writer = view(tmp_path, 1)
    writer.publish(at(10), whole(weights(1)))
    body, manifest = files_of(tmp_path, 1, 10)
    contents = body.read_bytes(), manifest.read_bytes()
    with body.open("rb") as held, manifest.open("rb") as held_manifest:
        writer.publish(at(10), whole(weights(2)))
        assert (held.read(), held_manifest.read()) == contents
    assert manifest.read_bytes() != contents[1]
    assert not body.exists()


def test_waiting_ends_after_the_time_given(tmp_path: Path) -> None:
    """With nothing, not much later; another step is not what was waited for."""
    view(tmp_path, 1).publish(at(10), whole(weights()))
    started = time.monotonic()
    assert view(tmp_path, 0).wait_for(1, at(11), timeout=0.3, have=None) is None
    assert 0.3 <= time.monotonic() - started < 2


def test_nobody_waits_for_a_step_that_the_peer_has_left_behind(tmp_path: Path) -> None:
    """It will not come any more: a group that restarted far behind must not spend a timeout at every boundary."""
    view(tmp_path, 1).publish(at(20), whole(weights()))
    started = time.monotonic()
    assert view(tmp_path, 0).wait_for(1, at(10), timeout=60, have=None) is None
    assert time.monotonic() - started < 2


def test_waiting_ends_when_the_snapshot_comes(tmp_path: Path) -> None:
    """Long before the time given."""
    timer = threading.Timer(0.2, lambda: view(tmp_path, 1).publish(at(10), whole(weights(3))))
    timer.start()
    started = time.monotonic()
    snapshot = view(tmp_path, 0).wait_for(1, at(10), timeout=60, have=None)
    timer.join()
    assert snapshot is not None
    assert_equal(weights_in(snapshot), weights(3))
    assert time.monotonic() - started < 20


def test_snapshot_that_is_there_is_taken_without_waiting(tmp_path: Path) -> None:
    """Even with no time to wait, and without asking who is alive."""
    view(tmp_path, 1).publish(at(10), whole(weights()))
    view(tmp_path, 1).publish(at(20), whole(weights()))
    calls: list[int] = []
    snapshot = view(tmp_path, 0).wait_for(1, at(10), timeout=0, alive=lambda: calls.append(1), have=None)
    assert snapshot is not None
    assert snapshot.moment == at(10)
    assert calls == []


def test_caller_is_asked_again_and_again_while_waiting(tmp_path: Path) -> None:
    """So that it may look after its own."""
    calls: list[float] = []
    assert (
        view(tmp_path, 0).wait_for(1, at(10), timeout=0.5, alive=lambda: calls.append(time.monotonic()), have=None)
        is None
    )
    assert len(calls) >= 3


def test_caller_ends_the_wait_by_raising(tmp_path: Path) -> None:
    """What it raises comes out as it is."""
    calls: list[int] = []

    def alive() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise InterruptedError("the peer is dead")

    started = time.monotonic()
    with pytest.raises(InterruptedError, match="the peer is dead"):
        view(tmp_path, 0).wait_for(1, at(10), timeout=60, alive=alive, have=None)
    assert len(calls) == 3
    assert time.monotonic() - started < 20


# Snapshots that hold only the rows that changed


def moved(values: Weights, random: np.random.Generator) -> tuple[Weights, Changes]:
    """Weights of which some rows of a matrix and all of the rest have changed, and what has."""
    rows = np.flatnonzero(random.random(5) < 0.5)
    after = {name: random.normal(size=each.shape).astype(np.float32) for name, each in values.items()}
    after["embedding"] = values["embedding"].copy()
    after["embedding"][rows] = random.normal(size=(len(rows), 3))
    return after, Changes({**after, "embedding": after["embedding"][rows]}, {"embedding": rows})


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
@pytest.mark.parametrize("seed", range(5))
def test_changed_rows_come_to_the_same_as_whole_snapshots(tmp_path: Path, seed: int, dtype: str) -> None:
    """For one who follows each, one who reads some, one who restarts each time, and one who comes late."""
    random = np.random.default_rng(seed)
    writer = view(tmp_path, 1, dtype=dtype, full_every=4, keep=3)
    follows, skips = view(tmp_path, 0, dtype=dtype), view(tmp_path, 0, dtype=dtype)
    has: dict[str, tuple[Moment | None, Weights]] = {"follows": (None, {}), "skips": (None, {}), "restarts": (None, {})}
    values = weights()
    kinds: list[bool] = []
    for step in range(1, 16):
        after, changes = moved(values, random)
        kinds.append(writer.wants_full)
        writer.publish(at(step), whole(after) if writer.wants_full else changes)
        values = after
        sent = as_sent(whole(values), dtype, {"embedding"}).weights
        readers = {"follows": follows, "restarts": view(tmp_path, 0, dtype=dtype)}
        if random.random() < 0.4:
            readers["skips"] = skips
        for name, reader in readers.items():
            have, mine = has[name]
            snapshot = reader.newest(1, since=at(0), have=have)
            assert snapshot is not None
            has[name] = (snapshot.moment, applied(snapshot.parts, mine))
            assert_equal(has[name][1], sent)
            if name == "follows" and have:
                assert len(snapshot.parts) == 1
        assert_equal(weights_in(newest(view(tmp_path, 0, dtype=dtype), 1)), sent)
    assert kinds == [step % 4 == 0 for step in range(15)]


def test_row_numbers_of_a_weight_without_rows_are_not_inflated_without_end() -> None:
    """zlib takes a most of 0 bytes for no limit."""
    content = encode_rows(np.arange(1_000_000))
    with pytest.raises(Undecodable, match="more row numbers than 0"):
        decode_rows(content, 0)
    assert decode_rows(encode_rows(np.arange(0)), 0).tolist() == []


def test_peer_that_comes_nearer_is_waited_for_beyond_the_time_given(tmp_path: Path) -> None:
    """It is the silence that must not last longer."""
    writer, reader = view(tmp_path, 1), view(tmp_path, 0)

    def publish() -> None:
        for step in range(1, 9):
            time.sleep(0.25)
            writer.publish(at(step), whole(weights(step)))

    thread = threading.Thread(target=publish)
    thread.start()
    snapshot = reader.wait_for(1, at(8), 1.0, have=None)
    thread.join()
    assert snapshot is not None
    assert snapshot.moment == at(8)


def test_left_overs_stay_where_the_store_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body whose manifest could not be read is no left-over."""
    view(tmp_path, 1).publish(at(10), whole(weights(1)))
    (body, manifest), get = files_of(tmp_path, 1, 10), Store.get

    def fails(store: Store, name: str) -> bytes | None:
        if name.endswith(manifest.name):
            raise StoreError("for a moment")
        return get(store, name)

    monkeypatch.setattr(Store, "get", fails)
    view(tmp_path, 1)
    assert body.exists()


def test_snapshot_that_cannot_be_read_for_a_moment_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that fails twice does not make a peer one that stayed away."""
    view(tmp_path, 1).publish(at(10), whole(weights(3)))
    get, failures = Store.get, [2]

    def fails(store: Store, name: str) -> bytes | None:
        if name.endswith(".safetensors") and failures[0]:
            failures[0] -= 1
            raise StoreError("for a moment")
        return get(store, name)

    monkeypatch.setattr(Store, "get", fails)
    snapshot = view(tmp_path, 0).wait_for(1, at(10), 20, have=None)
    assert_equal(weights_in(snapshot), weights(3))
    assert failures == [0]


def test_row_numbers_take_about_a_byte_each_and_come_back() -> None:
    random = np.random.default_rng(0)
    for share in (0.001, 0.1, 0.5, 1.0):
        rows = np.flatnonzero(random.random(1_000_000) < share)
        content = encode_rows(rows)
        np.testing.assert_array_equal(decode_rows(content, 1_000_000), rows)
        assert len(content) < (2.5 if share < 0.01 else 1.1) * len(rows) + 100


def test_snapshot_of_changed_rows_is_smaller(tmp_path: Path) -> None:
    """By the rows that are not in it."""
    table = np.random.default_rng(0).normal(size=(10_000, 16)).astype(np.float32)
    writer = view(tmp_path, 1, dtype="float16", shapes={"table": table.shape})
    full = writer.publish(at(1), whole({"table": table}))
    rows = np.arange(0, 10_000, 10)
    part = writer.publish(at(2), Changes({"table": table[rows]}, {"table": rows}))
    assert part < 0.12 * full
    assert full < 0.51 * table.nbytes


def test_two_histories_are_never_mixed(tmp_path: Path) -> None:
    """A group that was killed and comes to other weights does not continue what a reader has of its former life."""
    reader, first = view(tmp_path, 0), view(tmp_path, 1)
    first.publish(at(10), whole(weights(1)))
    snapshot = newest(reader, 1)
    mine = weights_in(snapshot)
    again = view(tmp_path, 1)
    assert again.wants_full
    again.publish(at(10), whole(weights(5)))
    rows = np.array([2])
    changes = Changes({**weights(6), "embedding": np.full((1, 3), 6, np.float32)}, {"embedding": rows})
    again.publish(at(20), changes)
    found = reader.newest(1, since=at(0), have=at(10))
    assert found is not None
    expected = weights(6)
    expected["embedding"] = np.full((5, 3), 5, np.float32)
    expected["embedding"][2] = 6
    assert_equal(applied(found.parts, mine), expected)


def test_snapshot_with_a_broken_chain_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By one who does not have what it continues; one who has goes on."""
    writer, follows = view(tmp_path, 1), view(tmp_path, 0)
    writer.publish(at(10), whole(weights(1)))
    mine = weights_in(newest(follows, 1))
    changes = Changes({**weights(2), "embedding": np.full((1, 3), 2, np.float32)}, {"embedding": np.array([0])})
    writer.publish(at(20), changes)
    truncate(*files_of(tmp_path, 1, 10))
    with caplog.at_level(logging.WARNING, logger="ctr"):
        assert newest(view(tmp_path, 0), 1) is None
    assert "do not have the digest" in caplog.text
    found = follows.newest(1, since=at(0), have=at(10))
    assert found is not None
    assert applied(found.parts, mine)["embedding"][:, 0].tolist() == [2, 1, 1, 1, 1]


@pytest.mark.parametrize("rows", [[5], [1, 1], [3, 2]])
def test_rows_that_cannot_be_are_refused(rows: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Beyond the table, twice, or out of order."""
    writer, reader = view(tmp_path, 1), view(tmp_path, 0)
    writer.publish(at(10), whole(weights(1)))
    sent = Changes({**weights(2), "embedding": np.zeros((len(rows), 3), "f4")}, {"embedding": np.array(rows)})
    writer.publish(at(20), sent)
    with caplog.at_level(logging.WARNING, logger="ctr"):
        snapshot = newest(reader, 1)
    assert snapshot is not None
    assert snapshot.moment == at(10)
    assert "row numbers of its embedding are not ascending below 5" in caplog.text


def test_cleaning_keeps_what_is_continued(tmp_path: Path) -> None:
    """The two newest, and the chain of the older of them."""
    writer = view(tmp_path, 1, keep=2, full_every=4)
    random = np.random.default_rng(0)
    values = weights()
    seen: list[list[int]] = []
    for step in range(1, 8):
        values, changes = moved(values, random)
        writer.publish(at(step), whole(values) if writer.wants_full else changes)
        seen.append(moments_of(tmp_path, 1))
    # Whole are 1 and 5.
    assert seen == [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4, 5], [5, 6], [5, 6, 7]]
    assert len(names_of(tmp_path, 1)) == 6


def test_left_overs_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    """A body without a manifest, and what was being written."""
    view(tmp_path, 1).publish(at(10), whole(weights()))
    view(tmp_path, 1).publish(at(20), whole(weights(2)))
    files_of(tmp_path, 1, 20)[1].unlink()
    (tmp_path / "group-1" / ".1-000000030.json.77").write_bytes(b"{")
    view(tmp_path, 1)
    assert moments_of(tmp_path, 1) == [10]
    assert len(names_of(tmp_path, 1)) == 2


# A place that cannot be reached or is full


def test_place_that_cannot_be_reached_is_an_error_of_one_line_and_may_come_back(tmp_path: Path) -> None:
    """The next snapshot is whole; reading finds nothing meanwhile."""
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    writer = view(blocked, 1)
    with pytest.raises(ExchangeError, match=r"blocked/group-1/.*(Not a directory|File exists)") as caught:
        writer.publish(at(10), whole(weights()))
    assert "\n" not in str(caught.value)
    reader = view(blocked, 0)
    assert newest(reader, 1) is None
    assert reader.wait_for(1, at(10), timeout=0.05, have=None) is None
    assert writer.wants_full
    blocked.unlink()
    writer.publish(at(20), whole(weights(2)))
    assert_equal(weights_in(newest(reader, 1)), weights(2))


def test_full_place_leaves_nothing_half_written(tmp_path: Path) -> None:
    """Under a limit on the size of files, in a process of its own."""
    script = f"""
import resource, signal
import numpy as np
from ctr.exchange import Changes, Exchange, ExchangeError, Moment
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
shapes = {{"w": (5000,)}}
exchange = Exchange({str(tmp_path)!r}, group=1, fingerprint="f", shapes=shapes, dtype="float32", keep=3, full_every=10)
try:
    exchange.publish(Moment(1, 10), Changes({{"w": np.zeros(5000, np.float32)}}, {{}}))
except ExchangeError as error:
    print("refused:", error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "refused:" in done.stdout
    assert "File too large" in done.stdout
    assert names_of(tmp_path, 1) == []


def test_end_of_a_peer_ends_the_wait_at_once(tmp_path: Path) -> None:
    """And is taken back when the group begins again."""
    writer = view(tmp_path, 1)
    writer.publish(at(10), whole(weights()))
    writer.finish(at(15))
    reader = view(tmp_path, 0)
    started = time.monotonic()
    assert reader.wait_for(1, at(20), timeout=60, have=None) is None
    assert reader.past(1, at(20))
    assert time.monotonic() - started < 2
    assert reader.wait_for(1, at(10), timeout=60, have=None) is not None
    view(tmp_path, 1).publish(at(12), whole(weights()))
    assert not reader.finished(1)


def test_phases_come_one_after_another(tmp_path: Path) -> None:
    """The first step of the second is later than any of the first."""
    writer = view(tmp_path, 1)
    writer.publish(Moment(1, 500), whole(weights(1)))
    writer.publish(Moment(2, 0), whole(weights(2)))
    snapshot = newest(view(tmp_path, 0), 1)
    assert snapshot is not None
    assert snapshot.moment == Moment(2, 0)


def test_objects_in_memory_are_exchanged_as_files_are(caplog: pytest.LogCaptureFixture) -> None:
    """Through fsspec, by address; chains, cleaning and the end too."""
    address = f"memory://exchange-{time.monotonic_ns()}"
    writer, reader = view(address, 1, keep=2, full_every=2), view(address, 0)
    random, values = np.random.default_rng(1), weights()
    assert newest(reader, 1) is None
    for step in range(1, 7):
        values, changes = moved(values, random)
        writer.publish(at(step), whole(values) if writer.wants_full else changes)
        assert_equal(weights_in(newest(reader, 1)), values)
    assert len(writer.store.names("group-1")) == 4
    writer.finish(at(9))
    assert reader.finished(1)
    assert caplog.records == []


def test_writer_killed_at_random_moments_never_leaves_a_torn_snapshot(tmp_path: Path) -> None:
    """Twenty processes publish one after another, each killed; all that is read is whole and its own step's."""
    script = f"""
import numpy as np
from ctr.exchange import Changes, Exchange, Moment
shapes = {{"w": (200_000,)}}
exchange = Exchange({str(tmp_path)!r}, group=1, fingerprint="f", shapes=shapes, dtype="float32", keep=3, full_every=1)
print("ready", flush=True)
for step in range(1_000_000):
    exchange.publish(Moment(1, step), Changes({{"w": np.full(200_000, step, np.float32)}}, {{}}))
"""
    reader, moments, read = view(tmp_path, 0, of="f", shapes={"w": (200_000,)}), np.random.default_rng(0), 0
    for _ in range(20):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        deadline = time.monotonic() + moments.uniform(0.02, 0.2)
        while time.monotonic() < deadline:
            snapshot = newest(reader, 1)
            if snapshot:
                read += 1
                assert (snapshot.parts[0].weights["w"] == snapshot.moment.step).all()
        process.kill()
        process.wait()
        process.stdout.close()
    assert read > 20
