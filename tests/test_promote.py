"""The gate, force and rollback, with a real registry in sqlite: what moves, what stays, and what versions say."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, run_ctr, tiny
from helpers import ignore
from mlflow.entities.model_registry import ModelVersion
from mlflow.tracking import MlflowClient

from ctr import registry
from ctr.cluster import free_ports
from ctr.scoring import evaluate_model
from features.errors import BadInput, WorkFailed

pytestmark = pytest.mark.processes


@dataclass(frozen=True)
class Gate:
    """A folder with a registry of its own; `good` and `wrong` are runs, `data` what models are judged on."""

    folder: Path
    good: Path
    wrong: Path
    data: Path

    def promote(self, run: Path, *, alias: str = "champion", force: bool = False) -> dict[str, Any]:
        from ctr.promote import promote

        return promote(str(run), self.data, alias, force, ignore)

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.folder}/mlflow.db")

    def version(self, number: str) -> ModelVersion:
        return self.client.get_model_version("ctr", number)

    def saved_model(self, number: str) -> Path:
        """The SavedModel that the registry keeps of a version."""
        return registry.model_files(f"models:/ctr/{number}")


@pytest.fixture(scope="module")
def wrong(project: Project) -> Path:
    """A run that learned the opposite of every label, with the features of `data`."""
    lines = (project.folder / "log.tsv").read_text().splitlines()
    (project.folder / "turned.tsv").write_text("".join(f"{1 - int(line[0])}{line[1:]}\n" for line in lines))
    project.ctr("prepare", "turned.tsv", "--out", "turned", "--spec", "data", "--json").result
    project.ctr("train", "turned", "--out", "turned-run", *tiny(codistillation__groups="1"), "--json").result
    return project.folder / "turned-run"


@pytest.fixture
def gate(project: Project, wrong: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:
    # Where MLflow keeps files is relative to the working folder.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return Gate(tmp_path, project.folder / "run", wrong, project.folder / "data")


def digest(data: Path) -> str:
    return json.loads((data / "manifest.json").read_text())["digest"]


def test_first_model_becomes_champion_and_its_version_says_on_what_grounds(gate: Gate) -> None:
    done = gate.promote(gate.good)
    assert (done["version"], done["was"], done["passed"], done["forced"]) == ("1", None, True, False)
    assert registry.aliases() == {"champion": "1"}
    tags = gate.version("1").tags
    known = evaluate_model(str(gate.good), [str(gate.data)], "test", ignore)
    assert {key: float(tags[key]) for key in ("log_loss", "auc", "ece", "rows")} == {
        key: known[key] for key in ("log_loss", "auc", "ece", "rows")
    }
    assert (tags["judged_on"], tags["judged_data"], tags["data_digest"]) == ("test", *[digest(gate.data)] * 2)
    assert (tags["champion_before"], tags["reason_0"]) == ("none", "there is no champion yet")
    assert tags["promoted_at"].endswith("+00:00")
    assert not [key for key in tags if key == "forced" or key.startswith("would_have_refused")]
    description = gate.version("1").description
    assert description == "\n".join(["Passed the gate:", *(f"- {reason}" for reason in done["reasons"])])


def test_a_better_model_becomes_champion_the_old_one_previous_and_a_refused_one_moves_neither(gate: Gate) -> None:
    assert gate.promote(gate.wrong, force=True)["was"] is None
    done = gate.promote(gate.good)
    assert (done["passed"], done["forced"], done["version"], done["was"]) == (True, False, "2", "1")
    assert registry.aliases() == {"champion": "2", "previous": "1"}
    assert gate.version("2").tags["champion_before"] == "1"
    assert done["reasons"][0].startswith("better than champion version 1 by ")
    seen = f"; the champion was trained on other data, {digest(gate.wrong.parent / 'turned')}; whether it has seen"
    assert seen in done["reasons"][0]
    refused = gate.promote(gate.wrong)
    assert (refused["passed"], refused["version"], refused["was"]) == (False, None, "2")
    assert refused["failed"][0].startswith("not surely better than champion version 2: worse by ")
    assert f"; the model was trained on other data, {digest(gate.wrong.parent / 'turned')}" in refused["failed"][0]
    assert refused["failed"][1].startswith("not calibrated")
    assert registry.aliases() == {"champion": "2", "previous": "1"}
    assert len(gate.client.search_model_versions("name = 'ctr'")) == 2


def test_force_moves_the_alias_all_the_same_and_the_version_says_why_it_would_not_have_been(gate: Gate) -> None:
    gate.promote(gate.good)
    arguments = ["promote", gate.wrong, "--data", gate.data]
    refused = run_ctr(*arguments, cwd=gate.folder)
    assert refused.code == 1
    assert "did not pass the gate and was not made champion: not surely better" in refused.error
    assert registry.aliases() == {"champion": "1"}
    forced = run_ctr(*arguments, "--force", "--json", cwd=gate.folder)
    said = forced.result
    assert (said["passed"], said["forced"], said["version"], said["was"]) == (False, True, "2", "1")
    warnings = [line for line in forced.err.splitlines() if line.startswith("warning: ")]
    assert warnings == [
        f"warning: {gate.wrong} was made champion by --force, though it did not pass the gate: "
        + "; ".join(said["failed"])
    ]
    assert registry.aliases() == {"champion": "2", "previous": "1"}
    version = gate.version("2")
    assert version.tags["forced"] == "true"
    assert [version.tags[f"would_have_refused_{index}"] for index in range(2)] == said["failed"]
    assert "would_have_refused_2" not in version.tags
    assert [version.tags[f"reason_{index}"] for index in range(3)] == said["reasons"]
    assert str(version.description).startswith("Forced, though the gate refused it:\n- not surely better")


def test_a_model_that_is_served_otherwise_than_judged_is_refused_and_can_be_forced(gate: Gate) -> None:
    """Its graph hashes into more buckets than the spec beside it says."""
    few = ["--set", "features.buckets=512", "--json"]
    run_ctr("prepare", gate.data.parent / "log.tsv", "--out", "few", *few, cwd=gate.folder).result
    group = json.loads((gate.good / "run.json").read_text())["result"]["served_group"]
    shutil.copytree(gate.good / f"group-{group}" / "model", "mixed")
    card = json.loads(Path("mixed/assets/model.json").read_text())
    manifest = json.loads(Path("few/manifest.json").read_text())
    card |= {"spec_digest": manifest["spec_digest"], "data_digest": manifest["digest"], "data": "few"}
    Path("mixed/assets/model.json").write_text(json.dumps(card))
    for name in ("spec.json", "spec.safetensors"):
        shutil.copy(Path("few") / name, Path("mixed/assets") / name)
    judged = Gate(gate.folder, gate.good, gate.wrong, Path("few"))
    refused = judged.promote(Path("mixed"))
    assert refused["failed"][-1].startswith("NOT the same online as offline: largest difference")
    assert registry.aliases() == {}
    forced = judged.promote(Path("mixed"), force=True)
    assert registry.aliases() == {"champion": "1"}
    assert forced["failed"][-1] in gate.version("1").tags.values()


def test_rollback_goes_back_and_a_second_one_undoes_it(gate: Gate) -> None:
    gate.promote(gate.wrong, force=True)
    gate.promote(gate.good)
    back = run_ctr("rollback", "--json", cwd=gate.folder).result
    assert back == {"name": "ctr", "alias": "champion", "version": "1", "was": "2"}
    assert registry.aliases() == {"champion": "1", "previous": "2"}
    assert gate.version("1").tags["rolled_back_from"] == "2"
    assert gate.version("2").tags["rolled_back_at"].endswith("+00:00")
    assert "rolled_back_at" not in gate.version("1").tags
    assert registry.roll_back("champion") == {"name": "ctr", "alias": "champion", "version": "2", "was": "1"}
    assert registry.aliases() == {"champion": "2", "previous": "1"}


def test_rollback_with_nothing_to_go_back_to_says_what_to_do(gate: Gate) -> None:
    gate.promote(gate.good)
    refused = run_ctr("rollback", cwd=gate.folder)
    assert refused.code == 2
    assert "champion has no version before 1: there is no alias previous in sqlite:" in refused.error
    assert "replace it with `ctr promote`" in refused.error
    assert registry.aliases() == {"champion": "1"}


def test_rollback_to_a_version_whose_files_are_gone_moves_nothing(gate: Gate) -> None:
    gate.promote(gate.wrong, force=True)
    gate.promote(gate.good)
    shutil.rmtree(gate.saved_model("1"))
    with pytest.raises(BadInput, match=r"champion cannot go back to version 1 and stays 2: .*holds no SavedModel"):
        registry.roll_back("champion")
    assert registry.aliases() == {"champion": "2", "previous": "1"}


def test_rollback_from_a_version_that_was_deleted_leaves_no_previous(gate: Gate) -> None:
    gate.promote(gate.good)
    gate.promote(gate.wrong, force=True)
    gate.client.delete_model_version("ctr", "2")
    assert registry.roll_back("champion")["was"] is None
    assert registry.aliases() == {"champion": "1"}


def test_aliases_move_together_or_not_at_all(gate: Gate) -> None:
    gate.promote(gate.wrong, force=True)
    gate.promote(gate.good)
    before = registry.aliases()
    gate.client.delete_model_version("ctr", "1")  # which takes the alias that points to it away
    with pytest.raises(WorkFailed, match=r"could not move aliases in .*version=1"):
        # What a rollback does that read the aliases before.
        registry.point_all({"another": "2", "champion": before["previous"], "previous": before["champion"]})
    assert registry.aliases() == {"champion": "2"}
    with pytest.raises(WorkFailed, match="version=1"):
        registry.point_all({"previous": "2", "champion": "1"})
    assert registry.aliases() == {"champion": "2"}


def test_an_alias_that_moved_while_a_model_was_judged_stays(gate: Gate) -> None:
    gate.promote(gate.wrong, force=True)
    gate.promote(gate.good)
    with pytest.raises(WorkFailed, match="champion is version 2 by now, and version 1 was judged when it was none"):
        registry.move_alias("champion", "1", None)
    assert registry.aliases() == {"champion": "2", "previous": "1"}


def test_another_alias_has_a_previous_of_its_own(gate: Gate) -> None:
    gate.promote(gate.wrong, alias="trial", force=True)
    gate.promote(gate.good, alias="trial")
    assert registry.aliases() == {"trial": "2", "previous-trial": "1"}
    with pytest.raises(BadInput, match="there is no alias previous in"):
        registry.roll_back("champion")
    assert registry.roll_back("trial")["version"] == "1"
    assert registry.aliases() == {"trial": "1", "previous-trial": "2"}


@pytest.mark.parametrize("alias", ["previous", "previous-trial", "Latest", "v12", "two words", "", "a" * 201])
def test_aliases_that_cannot_be_are_refused(gate: Gate, alias: str) -> None:
    with pytest.raises(BadInput, match=f"alias '{alias}' "):
        registry.check_alias(alias)
    with pytest.raises(BadInput, match=f"alias '{alias}' "):
        registry.roll_back(alias)


def cut(pattern: str) -> Callable[[Path], object]:
    """What leaves ten bytes of a file of a SavedModel."""

    def damage(model: Path) -> None:
        (file,) = model.glob(pattern)
        file.write_bytes(file.read_bytes()[:10])

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        shutil.rmtree,
        lambda model: shutil.rmtree(model.parents[1]),
        cut("saved_model.pb"),
        cut("variables/*.index"),
        cut("variables/*.data*"),
        cut("assets/model.json"),
        cut("assets/spec.json"),
    ],
    ids=["no model", "no files", "graph", "index", "weights", "card", "spec"],
)
def test_a_champion_that_cannot_be_loaded_is_replaced_only_by_force(
    gate: Gate, damage: Callable[[Path], object]
) -> None:
    gate.promote(gate.wrong, force=True)
    damage(gate.saved_model("1"))
    with pytest.raises(WorkFailed, match=r"champion version 1 cannot be loaded: .*or replace it unseen with --force$"):
        gate.promote(gate.good)
    assert registry.aliases() == {"champion": "1"}
    done = gate.promote(gate.good, force=True)
    assert done["failed"] == [done["reasons"][0]]
    assert done["reasons"][0].startswith("not compared with the present model: champion version 1 cannot be loaded: ")
    assert gate.version("2").tags["would_have_refused_0"] == done["reasons"][0]
    assert registry.aliases() == {"champion": "2", "previous": "1"}


def test_registry_that_cannot_be_reached_is_one_line(gate: Gate) -> None:
    (port,) = free_ports(1)
    away = {"MLFLOW_REGISTRY_URI": f"http://127.0.0.1:{port}", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    for command in (["promote", gate.good], ["rollback"]):
        failed = run_ctr(*command, cwd=gate.folder, env=away)
        assert failed.code == 1
        assert f"the registry http://127.0.0.1:{port} cannot be read" in failed.error
        assert "check MLFLOW_TRACKING_URI and MLFLOW_REGISTRY_URI" in failed.error


def test_rows_that_training_chose_by_are_named(gate: Gate) -> None:
    log = gate.data.parent / "log.tsv"
    untested = ["--spec", gate.data, "--set", "prepare.test=0", "--json"]
    run_ctr("prepare", log, "--out", "untested", *untested, cwd=gate.folder).result
    stopping = tiny(codistillation__groups="1", train__early_stopping="2")
    run_ctr("train", "untested", "--out", "run", *stopping, "--json", cwd=gate.folder).result
    done = run_ctr("promote", "run", "--json", cwd=gate.folder).result
    assert done["judged_on"] == "validation"
    assert done["reasons"][0] == (
        "there is no champion yet; the model is not new to these validation rows: early stopping went by them"
    )
    assert gate.version("1").tags["judged_on"] == "validation"


def test_data_without_held_out_rows_are_refused(gate: Gate) -> None:
    whole = ["--spec", gate.data, "--split", "none", "--json"]
    run_ctr("prepare", gate.data.parent / "log.tsv", "--out", "whole", *whole, cwd=gate.folder).result
    judged = Gate(gate.folder, gate.good, gate.wrong, Path("whole"))
    with pytest.raises(BadInput, match="whole has neither test nor validation rows to judge on"):
        judged.promote(gate.good, force=True)
    assert registry.aliases() == {}
