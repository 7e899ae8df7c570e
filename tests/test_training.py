"""Training with real processes: groups, snapshots, determinism, resume, survival of Ctrl-C and kill -9."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import Project, Start, run_ctr, tiny
from runs import assert_equal_weights, checkpoints, children, gone, wait_for, weights
from safetensors.numpy import load_file

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def apart(project: Project) -> Path:
    """A pair with weight 0."""
    alone = project.ctr("train", "data", "--out", "apart", *tiny(codistillation__weight="0.0"), "--json").result
    assert [member["bytes_published"] for member in alone["members"]] == [0, 0]
    return project.folder / "apart"


@pytest.fixture(scope="module")
def single(project: Project) -> Path:
    """One group."""
    trained = project.ctr("train", "data", "--out", "single", *tiny(codistillation__groups="1"), "--json").result
    assert trained["groups"] == 1
    return project.folder / "single"


def test_two_groups_train_as_processes_of_their_own_and_exchange_verified_files(project: Project) -> None:
    trained = project.trained
    # 3,200 training rows in batches of 64 are 50 steps; burn-in ends at step 15, then an exchange each 10 steps.
    assert trained["groups"] == 2
    assert trained["steps"] == 50
    assert trained["evaluated_on"] == "validation"
    assert [member["group"] for member in trained["members"]] == [0, 1]
    assert all(member["snapshots_missed"] == 0 for member in trained["members"])
    losses = {member["group"]: member["log_loss"] for member in trained["members"]}
    assert trained["served_group"] == min(losses, key=lambda group: losses[group])
    for group in (0, 1):
        manifests = sorted((project.folder / "run" / "exchange" / f"group-{group}").glob("1-*.json"))
        steps = [json.loads(manifest.read_bytes())["step"] for manifest in manifests]
        assert steps == [15, 25, 35, 45]
        (body_file,) = manifests[-1].parent.glob(f"{manifests[-1].stem}-*.safetensors")
        body = load_file(body_file)
        weights_in = {name: array for name, array in body.items() if not name.endswith(".rows")}
        eight_bit = {name for name, array in weights_in.items() if array.dtype == np.int8}
        assert eight_bit == {"table"}
        assert all(weights_in[name].dtype == np.float16 for name in set(weights_in) - eight_bit)
        # The first was whole, the later ones hold the embedding rows that steps looked up.
        assert json.loads(manifests[0].read_bytes())["base"] is None
        assert 0 < len(body["table"]) < 10 * 64 * 39


def test_groups_differ_but_less_than_independent_models(project: Project, apart: Path) -> None:
    def distance(run: Path) -> float:
        scores: list[Any] = []
        for group in (0, 1):
            out = project.folder / f"{run.name}-{group}.parquet"
            project.ctr("predict", run / f"group-{group}" / "model", "log.tsv", "--out", out, "--json").result
            scores.append(pl.read_parquet(out)["probability"].to_numpy())
        return float(np.abs(scores[0] - scores[1]).mean())

    assert 0 < distance(project.folder / "run") < distance(apart)


def test_weight_0_is_bit_for_bit_the_single_model(apart: Path, single: Path) -> None:
    assert_equal_weights(weights(apart, 0), weights(single, 0))


def test_same_seed_same_bytes_and_another_seed_other_ones(project: Project) -> None:
    project.ctr("train", "data", "--out", "again", *tiny(), "--json").result
    project.ctr("train", "data", "--out", "other", *tiny(train__seed="1"), "--json").result
    for group in (0, 1):
        first = weights(project.folder / "run", group)
        assert_equal_weights(first, weights(project.folder / "again", group))
        other = weights(project.folder / "other", group)
        table = next(name for name in first if "table" in name and "OPTIMIZER_SLOT" not in name)
        assert not np.array_equal(first[table], other[table])


def test_killed_run_resumes_and_ends_with_the_same_weights(project: Project, in_background: Start) -> None:
    out = project.folder / "killed"
    process = in_background("train", "data", "--out", "killed", *tiny(), cwd=project.folder)
    wait_for(lambda: 20 in checkpoints(out, 0), process)
    workers = children(process.pid)
    assert len(workers) == 2
    for pid in [process.pid, *workers]:
        os.kill(pid, signal.SIGKILL)
    process.wait(10)
    assert json.loads((out / "run.json").read_text())["status"] == "running"  # nobody could say otherwise
    resumed = project.ctr("train", "data", "--out", "killed", *tiny(), "--json").result
    assert resumed["steps"] == 50
    for group in (0, 1):
        assert_equal_weights(weights(project.folder / "run", group), weights(out, group))


def test_workers_end_when_their_launcher_is_killed(project: Project, in_background: Start) -> None:
    long = tiny(train__epochs="200")
    process = in_background("train", "data", "--out", "orphans", *long, cwd=project.folder)
    wait_for(lambda: checkpoints(project.folder / "orphans", 1), process)
    workers = children(process.pid)
    process.kill()
    deadline = time.monotonic() + 30
    while not all(gone(pid) for pid in workers):
        assert time.monotonic() < deadline, "workers outlived their launcher"
        time.sleep(0.1)


def test_ctrl_c_ends_both_groups_marks_the_run_killed_and_the_same_command_resumes(
    project: Project, in_background: Start
) -> None:
    out = project.folder / "stopped"
    process = in_background("train", "data", "--out", "stopped", *tiny(train__epochs="6"), cwd=project.folder)
    wait_for(lambda: checkpoints(out, 0), process)
    workers = children(process.pid)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "stopped by Ctrl-C" in lines[0]
    assert "Traceback" not in errors
    assert all(gone(pid) for pid in workers)
    assert json.loads((out / "run.json").read_text())["status"] == "killed"
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{project.folder}/mlflow.db")
    run_ids = [(out / f"group-{group}" / "mlflow_run_id").read_text() for group in (0, 1)]
    assert [client.get_run(run_id).info.status for run_id in run_ids] == ["KILLED", "KILLED"]
    refused = project.ctr("evaluate", "stopped", "data")
    assert refused.code == 2
    assert "is killed, not finished" in refused.error
    resumed = project.ctr("train", "data", "--out", "stopped", *tiny(train__epochs="6"), "--json").result
    assert [member["run_id"] for member in resumed["members"]] == run_ids
    assert [client.get_run(run_id).info.status for run_id in run_ids] == ["FINISHED", "FINISHED"]


def test_two_workers_a_group_share_its_batches(project: Project) -> None:
    settings = tiny(train__workers_per_group="2")
    trained = project.ctr("train", "data", "--out", "workers", *settings, "--json").result
    assert trained["groups"] == 2
    assert trained["steps"] == 50
    # The same batches, divided: the same losses as with one worker, but for rounding.
    for member, alone in zip(trained["members"], project.trained["members"], strict=True):
        assert member["log_loss"] == pytest.approx(alone["log_loss"], abs=2e-4)


def test_two_workers_a_group_stop_early_as_one_does(project: Project) -> None:
    """The chief's log loss is every worker's: the same evaluations, the same best step."""
    settings = {"train__early_stopping": "2", "train__evaluate_every": "5", "train__epochs": "4"}
    settings |= {"train__batch_size": "256", "codistillation__burn_in_epochs": "0.5"}
    one = project.ctr("train", "data", "--out", "one-stops", *tiny(**settings), "--json").result
    two = project.ctr(
        "train", "data", "--out", "two-stop", *tiny(**settings, train__workers_per_group="2"), "--json"
    ).result
    for alone, together in zip(one["members"], two["members"], strict=True):
        assert together["steps"] == alone["steps"]
        assert together["exchanges"] == alone["exchanges"] > 1
        assert together["log_loss"] == pytest.approx(alone["log_loss"], abs=2e-4)
        for name, values in weights(project.folder / "one-stops", alone["group"]).items():
            if name.startswith("model/table"):
                np.testing.assert_allclose(
                    weights(project.folder / "two-stop", alone["group"])[name], values, atol=2e-3, err_msg=name
                )


def test_runs_that_share_an_exchange_place_do_not_teach_one_another(project: Project, tmp_path: Path) -> None:
    """A second run with another seed ends as it does in a place of its own."""
    place = {"CTR_EXCHANGE": str(tmp_path / "exchange")}
    project.ctr("train", "data", "--out", "shared-0", *tiny(), "--json", env=place).result
    shared = project.ctr("train", "data", "--out", "shared-1", *tiny(train__seed="1"), "--json", env=place).result
    alone = project.ctr("train", "data", "--out", "alone-1", *tiny(train__seed="1"), "--json").result
    assert [m["bytes_read"] for m in shared["members"]] == [m["bytes_read"] for m in alone["members"]]
    for group in (0, 1):
        assert_equal_weights(weights(project.folder / "shared-1", group), weights(project.folder / "alone-1", group))
    assert len(list((tmp_path / "exchange").iterdir())) == 2


def test_exchange_rarer_than_peers_are_dropped_is_told_before_anything_starts(project: Project) -> None:
    settings = tiny(codistillation__exchange_every="20", codistillation__drop_after="10")
    done = project.ctr("train", "data", "--out", "rare", *settings)
    assert done.code == 2
    assert "every peer would be dropped between two exchanges" in done.error
    assert not (project.folder / "rare").exists()


def test_run_is_not_begun_anew_nor_continued_with_other_settings(project: Project) -> None:
    finished = project.ctr("train", "data", "--out", "run", *tiny())
    assert finished.code == 2
    assert "is finished already" in finished.error
    about = json.loads((project.folder / "run" / "run.json").read_text())
    half = project.folder / "half"
    half.mkdir()
    (half / "run.json").write_text(json.dumps({**about, "status": "killed"}))
    (half / "config.yaml").write_text((project.folder / "run" / "config.yaml").read_text())
    changed = project.ctr("train", "data", "--out", "half", *tiny(train__epochs="9"))
    assert changed.code == 2
    assert "other settings" in changed.error


def test_loss_that_is_not_finite_stops_the_run_with_step_and_rate(project: Project) -> None:
    settings = tiny(optimizer__learning_rate="1e30", optimizer__wide_learning_rate="1e30")
    failed = project.ctr("train", "data", "--out", "exploded", *settings)
    assert failed.code == 1
    assert "at step" in failed.error
    assert "with learning rate" in failed.error
    assert "checkpoint" in failed.error
    assert json.loads((project.folder / "exploded" / "run.json").read_text())["status"] == "failed"


def test_bad_batch_size_for_the_workers_is_told_before_anything_starts(project: Project) -> None:
    settings = tiny(train__workers_per_group="3")
    refused = project.ctr("train", "data", "--out", "uneven", *settings)
    assert refused.code == 2
    assert "does not divide among 3 workers" in refused.error
    assert not (project.folder / "uneven").exists()


def test_worker_on_its_own_finds_its_place_in_the_environment(project: Project, single: Path) -> None:
    """What a scheduler does: the run folder with its configuration, then one process a group."""
    out = project.folder / "scheduled"
    out.mkdir()
    (out / "config.yaml").write_text((project.folder / "run" / "config.yaml").read_text())
    environment = {"CTR_GROUP": "1", "CTR_GROUPS": "1"}
    refused = run_ctr("worker", "data", "--out", "scheduled", cwd=project.folder, env=environment)
    assert refused.code == 2
    assert "CTR_GROUP is 1 but CTR_GROUPS is 1" in refused.error
    environment["CTR_GROUP"] = "0"
    done = run_ctr("worker", "data", "--out", "scheduled", cwd=project.folder, env=environment)
    assert done.code == 0, done.err
    assert (out / "group-0" / "model" / "saved_model.pb").exists()
    assert_equal_weights(weights(out, 0), weights(single, 0))


def test_three_groups_learn_from_all_others_or_in_a_ring_from_the_one_before(project: Project) -> None:
    three = tiny(codistillation__groups="3")
    everyone = project.ctr("train", "data", "--out", "three", *three, "--json").result["members"]
    ring = [*three, "codistillation.peers=ring"]
    one_before = project.ctr("train", "data", "--out", "ring", *ring, "--json").result["members"]
    for of_all, of_one in zip(everyone, one_before, strict=True):
        assert of_all["snapshots_missed"] == of_one["snapshots_missed"] == 0
        # Two peers' snapshots of each moment, or one's.
        assert of_all["bytes_read"] == pytest.approx(2 * of_one["bytes_read"], rel=0.1)
        assert of_all["bytes_published"] == pytest.approx(of_one["bytes_published"], rel=0.1)
    assert len({member["log_loss"] for member in [*everyone, *one_before]}) == 6


def test_four_groups_with_half_of_their_rows_in_common_learn_from_one_another(project: Project) -> None:
    four = tiny(codistillation__groups="4", codistillation__overlap="0.5", codistillation__teacher="everyone")
    members = project.ctr("train", "data", "--out", "four", *four, "--json").result["members"]
    # Half of 3,200 rows and a quarter of the other half, 64 a step.
    assert [member["steps"] for member in members] == [31] * 4
    assert all(member["bytes_read"] > 0 and member["snapshots_missed"] == 0 for member in members)
    apart = project.ctr("train", "data", "--out", "four-apart", *four, "codistillation.weight=0", "--json").result
    taught = [member["log_loss"] for member in members]
    assert np.std(taught) < np.std([member["log_loss"] for member in apart["members"]])
