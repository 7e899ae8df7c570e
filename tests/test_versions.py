"""Versions of a model come, go, are replaced and break, while those that use them notice nothing."""

import gc
import shutil
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Project
from servers import break_model, put, wait_for

from serving.loading import Loaded, error_code, load_warm, score
from serving.refusal import Refused
from serving.rows import RAW, Inputs
from serving.versions import Versions

pytestmark = pytest.mark.processes

Make = Callable[..., Versions[Loaded]]


@pytest.fixture(scope="module")
def models(project: Project) -> list[Path]:
    """Two SavedModels that give a row different scores."""
    return [project.folder / "run" / f"group-{group}" / "model" for group in (0, 1)]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Versions of the folder `served`."""

    def versions(**options: object) -> Versions[Loaded]:
        made = Versions[Loaded](tmp_path / "served", "ctr", load=load_warm, code_of=error_code, **options)  # pyright: ignore
        made.poll()
        return made

    return versions


def served(folder: Path, **models: Path) -> Path:
    """Puts models into a folder of versions: `v3=...` becomes its version 3."""
    for name, model in models.items():
        target = folder / "served" / name.removeprefix("v")
        target.parent.mkdir(exist_ok=True)
        put(model, target)
    return folder / "served"


def settle(versions: Versions[Loaded]) -> None:
    """Two looks: the first one sees what changed, the second one that it no longer changes."""
    versions.poll()
    versions.poll()


def answer(versions: Versions[Loaded], number: int | None = None, label: str | None = None) -> float:
    with versions.using(number, label) as version:
        return float(score((version.loaded, RAW), [Inputs(RAW, 1, {})])[0])


def states(versions: Versions[Loaded]) -> list[tuple[int, str, str]]:
    return [(version.number, version.state, version.error_code) for version in versions.states()]


def test_newest_version_answers_and_a_newer_one_takes_its_place(tmp_path: Path, make: Make, models: list[Path]) -> None:
    served(tmp_path, v2=models[0])
    versions = make()
    first = answer(versions)
    served(tmp_path, v10=models[1])
    versions.poll()
    assert answer(versions) == first  # it may be half copied
    versions.poll()
    assert answer(versions) != first
    assert states(versions) == [(10, "AVAILABLE", "OK"), (2, "END", "OK")]
    with pytest.raises(Refused, match=r"Servable not found for request: Specific\(ctr, 2\)"):
        answer(versions, 2)


def test_several_versions_and_those_with_a_label_answer_at_once(tmp_path: Path, make: Make, models: list[Path]) -> None:
    served(tmp_path, v1=models[0], v2=models[0], v3=models[1], v4=models[1])
    versions = make(keep=2, labels={"stable": 1, "canary": 4, "lost": 7})
    assert states(versions) == [(4, "AVAILABLE", "OK"), (3, "AVAILABLE", "OK"), (1, "AVAILABLE", "OK")]
    assert versions.numbers == [4, 3, 1]
    assert answer(versions, label="stable") == answer(versions, 1) != answer(versions, label="canary")
    assert answer(versions) == answer(versions, 4)
    with pytest.raises(Refused, match=r"Specific\(ctr, 7\)") as gone:
        answer(versions, label="lost")
    with pytest.raises(Refused, match="Unrecognized servable version label: nobody") as unknown:
        answer(versions, label="nobody")
    assert (gone.value.status, unknown.value.status) == (404, 400)


def test_broken_version_leaves_the_old_one_and_is_loaded_once_it_is_whole(
    tmp_path: Path, make: Make, models: list[Path]
) -> None:
    folder = served(tmp_path, v1=models[0])
    versions = make()
    first = answer(versions)
    served(tmp_path, v2=models[1])
    break_model(folder / "2")
    settle(versions)
    assert answer(versions) == first
    assert states(versions)[1] == (1, "AVAILABLE", "OK")
    broken = versions.states(2)[0]
    assert (broken.state, broken.error_code) == ("END", "DATA_LOSS")
    assert "cannot be loaded" in broken.error_message
    put(models[1], folder / "2")
    settle(versions)
    assert answer(versions) != first
    assert states(versions)[0] == (2, "AVAILABLE", "OK")


@pytest.mark.parametrize("missing", ["variables", "assets", "saved_model.pb"])
def test_version_of_which_a_part_is_missing_is_not_served(
    tmp_path: Path, make: Make, models: list[Path], missing: str
) -> None:
    folder = served(tmp_path, v1=models[0], v2=models[1])
    part = folder / "2" / missing
    shutil.rmtree(part) if part.is_dir() else part.unlink()
    versions = make()
    assert versions.numbers == [1]
    found = versions.states(2)[0]
    assert found.state == "END"
    assert found.error_code in {"INVALID_ARGUMENT", "NOT_FOUND", "DATA_LOSS"}
    assert found.error_message


def test_saved_model_that_is_replaced_in_place_is_loaded_anew(tmp_path: Path, make: Make, models: list[Path]) -> None:
    put(models[0], tmp_path / "served")
    versions = make()
    first = answer(versions)
    put(models[1], tmp_path / "served")
    settle(versions)
    assert answer(versions, 1) != first
    assert states(versions) == [(1, "AVAILABLE", "OK")]
    second = answer(versions)
    break_model(tmp_path / "served")
    settle(versions)
    assert answer(versions) == second
    assert [each[:2] for each in states(versions)] == [(1, "AVAILABLE"), (1, "END")]


def test_version_in_use_is_unloaded_when_its_last_request_is_done(
    tmp_path: Path, make: Make, models: list[Path]
) -> None:
    served(tmp_path, v1=models[0])
    versions = make()
    served(tmp_path, v2=models[1])
    with versions.using() as used:
        old = weakref.ref(used.loaded)
        before = answer(versions)
        polling = threading.Thread(target=settle, args=(versions,))
        polling.start()
        wait_for(lambda: used.state == "UNLOADING")
        assert (1, "UNLOADING", "OK") in states(versions)
        assert answer(versions) != before  # new requests have the new one already
        assert float(score((used.loaded, RAW), [Inputs(RAW, 1, {})])[0]) == before
        assert polling.is_alive()
    polling.join(10)
    assert states(versions) == [(2, "AVAILABLE", "OK"), (1, "END", "OK")]
    gc.collect()
    assert old() is None  # its tables are not in memory any more


def test_folder_that_is_gone_or_empty_changes_nothing(tmp_path: Path, make: Make, models: list[Path]) -> None:
    folder = served(tmp_path, v1=models[0])
    versions = make()
    first = answer(versions)
    folder.rename(tmp_path / "elsewhere")
    settle(versions)
    folder.mkdir()
    settle(versions)
    assert answer(versions) == first


def test_version_that_goes_back_is_served_again(tmp_path: Path, make: Make, models: list[Path]) -> None:
    """As the link to a registered version does when an alias is rolled back."""
    folder = served(tmp_path, v1=models[0], v2=models[1])
    versions = make()
    second = answer(versions)
    (folder / "2").rename(tmp_path / "2")
    settle(versions)
    first = answer(versions)
    assert first != second
    (tmp_path / "2").rename(folder / "2")
    settle(versions)
    assert answer(versions) == second
    assert states(versions) == [(2, "AVAILABLE", "OK"), (1, "END", "OK")]


def test_model_that_gives_no_numbers_is_not_served(tmp_path: Path, make: Make, models: list[Path]) -> None:
    import tensorflow as tf

    served(tmp_path, v1=models[0])
    versions = make()
    loaded = tf.saved_model.load(str(models[1]))
    for variable in loaded.weights:
        if variable.dtype == tf.float32:
            variable.assign(tf.fill(variable.shape, np.float32("nan")))
    tf.saved_model.save(loaded, str(tmp_path / "nan"), signatures=loaded.signatures)
    shutil.copytree(models[1] / "assets", tmp_path / "nan" / "assets", dirs_exist_ok=True)
    served(tmp_path, v2=tmp_path / "nan")
    settle(versions)
    assert versions.numbers == [1]
    assert "gives no number" in versions.states(2)[0].error_message


def test_watch_polls_by_itself(tmp_path: Path, make: Make, models: list[Path]) -> None:
    served(tmp_path, v1=models[0])
    versions = make()
    versions.watch(0.05)
    served(tmp_path, v2=models[1])
    wait_for(lambda: versions.numbers == [2])
    versions.stop()
    served(tmp_path, v3=models[1])
    time.sleep(0.3)
    assert versions.numbers == [2]
