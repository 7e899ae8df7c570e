"""The comparison, trained for real on few rows."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import COMPARED, Project, Start, tiny
from mlflow.tracking import MlflowClient
from pages import read, tables
from runs import children, wait_for
from sklearn.metrics import log_loss, roc_auc_score

pytestmark = pytest.mark.processes


def scores(project: Project, run: str, group: int) -> tuple[np.ndarray, np.ndarray]:
    frame = pl.read_parquet(project.folder / "comparison" / run / f"group-{group}" / "scores-test.parquet")
    return frame["label"].to_numpy(), frame["probability"].to_numpy()


def test_every_arm_is_reported_with_its_interval_and_churn(compared: dict[str, Any]) -> None:
    assert list(compared["arms"]) == ["logistic", "single", "ensemble", "codistilled", "truth"]
    for arm, about in compared["arms"].items():
        assert about["log_loss"]["low"] < about["log_loss"]["mean"] < about["log_loss"]["high"]
        assert (about["churn"] is None) == (arm == "truth")
    assert compared["arms"]["ensemble"]["models_served"] == 2
    assert compared["arms"]["codistilled"]["models_served"] == 1
    trained = {arm: about["log_loss"]["mean"] for arm, about in compared["arms"].items() if arm != "truth"}
    assert compared["winner"] == min(trained, key=lambda arm: trained[arm])
    assert compared["arms"]["truth"]["log_loss"]["mean"] < min(trained.values())
    assert len(compared["differences"]) == 6
    assert compared["sentences"][:6] == [each["sentence"] for each in compared["differences"]]
    assert all(sentence.startswith(f"{compared['winner']} is better than ") for sentence in compared["sentences"][:3])


def test_figures_are_those_of_the_predictions_on_the_test_rows(project: Project, compared: dict[str, Any]) -> None:
    members = [[scores(project, f"singles-{retraining}", group) for group in (0, 1)] for retraining in (0, 1)]
    labels = members[0][0][0]
    single = [members[retraining][0][1] for retraining in (0, 1)]
    average = [(each[0][1] + each[1][1]) / 2 for each in members]
    about = compared["arms"]
    assert about["single"]["log_loss"]["mean"] == pytest.approx(np.mean([log_loss(labels, p) for p in single]))
    assert about["single"]["auc"] == pytest.approx(np.mean([roc_auc_score(labels, p) for p in single]))
    assert about["ensemble"]["log_loss"]["mean"] == pytest.approx(np.mean([log_loss(labels, p) for p in average]))
    assert about["single"]["churn"] == pytest.approx(np.abs(single[0] - single[1]).mean())
    assert about["ensemble"]["churn"] == pytest.approx(np.abs(average[0] - average[1]).mean())


def test_churn_of_codistilled_is_between_served_members_of_two_retrainings(
    project: Project, compared: dict[str, Any]
) -> None:
    served = []
    for retraining in (0, 1):
        run = json.loads((project.folder / "comparison" / f"codistilled-{retraining}" / "run.json").read_text())
        served.append(scores(project, f"codistilled-{retraining}", run["result"]["served_group"])[1])
    assert compared["arms"]["codistilled"]["churn"] == pytest.approx(np.abs(served[0] - served[1]).mean())


def test_logistic_regression_is_scikit_learns_on_the_same_rows(project: Project, compared: dict[str, Any]) -> None:
    labels, _ = scores(project, "singles-0", 0)
    found = np.load(project.folder / "comparison" / "logistic-test.npy")
    expected = log_loss(labels, found)
    assert compared["arms"]["logistic"]["log_loss"]["mean"] == pytest.approx(expected)
    # Nothing in it is random.
    assert compared["arms"]["logistic"]["churn"] == 0


def test_truth_is_the_generators_probability_of_each_test_row(project: Project, compared: dict[str, Any]) -> None:
    # The test part of a split by time is the last tenth of the log.
    truth = pl.read_parquet(project.folder / "truth.parquet").tail(400)
    expected = log_loss(truth["click"].to_numpy(), truth["probability"].to_numpy())
    assert compared["rows"] == 400
    assert compared["arms"]["truth"]["log_loss"]["mean"] == pytest.approx(expected)


def test_each_arm_and_retraining_is_a_top_level_run(project: Project, compared: dict[str, Any]) -> None:
    client = MlflowClient(f"sqlite:///{project.folder}/mlflow.db")
    experiment = client.get_experiment_by_name("ctr")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.comparison = 'comparison' and tags.kind = 'arm'")
    found = {(run.data.tags["arm"], run.data.tags["retraining"]): run for run in runs}
    assert set(found) == {(arm, r) for arm in ("logistic", "single", "ensemble", "codistilled") for r in ("0", "1")}
    labels, p = scores(project, "singles-1", 0)
    assert found["single", "1"].data.metrics["test_log_loss"] == pytest.approx(log_loss(labels, p))
    assert all("mlflow.parentRunId" not in run.data.tags for run in runs)
    assert all(run.data.tags["group"] == run.data.tags["arm"] for run in runs)
    members = client.search_runs([experiment.experiment_id], "tags.comparison = 'comparison' and tags.kind = 'member'")
    assert {run.data.tags["arm"] for run in members} == {"singles", "codistilled"}
    assert len(members) == 8
    served = found["codistilled", "1"]
    manifest = json.loads((project.folder / "data" / "manifest.json").read_text())
    assert served.inputs is not None
    datasets = {each.dataset.name: each.dataset.digest for each in served.inputs.dataset_inputs}
    assert datasets == {"data": manifest["digest"][:36], "feature-spec": manifest["spec_digest"][:36]}
    assert [point.step for point in client.get_metric_history(served.info.run_id, "validation_log_loss")] == [
        20,
        40,
        50,
    ]
    models = client.search_logged_models([experiment.experiment_id], "name = 'codistilled-1'")
    (model,) = [each for each in models if each.source_run_id == served.info.run_id]
    assert (Path(model.tags["path"]) / "saved_model.pb").is_file()
    assert model.metrics is not None
    linked = {metric.key: (metric.value, metric.dataset_digest) for metric in model.metrics}
    assert linked["test_log_loss"] == (served.data.metrics["test_log_loss"], datasets["data"])
    for run in runs:
        names = [file.path for file in client.list_artifacts(run.info.run_id, "plots")]
        assert names == ["plots/reliability.svg", "plots/roc.svg", "plots/scores.svg"]
    whole, *_ = client.search_runs(
        [experiment.experiment_id], "tags.comparison = 'comparison' and tags.kind = 'comparison'"
    )
    page = project.folder / "comparison" / "report.html"
    assert compared["report"] == "comparison/report.html"
    assert Path(client.download_artifacts(whole.info.run_id, "report.html")).read_bytes() == page.read_bytes()
    assert [file.path for file in client.list_artifacts(whole.info.run_id, "plots")] == ["plots/differences.svg"]


def test_page_has_every_arms_log_loss_and_its_plots(project: Project, compared: dict[str, Any]) -> None:
    page = read(project.folder / "comparison" / "report.html")
    rows = {row[0]: row[1] for row in tables(page)[0][2:]}
    assert rows == {arm: f"{about['log_loss']['mean']:.5f}" for arm, about in compared["arms"].items()}
    # Three arms against the single; reliability, ROC and learning curves of all; and how each arm's scores are spread.
    names = [picture.attributes["aria-label"].partition(":")[0] for picture in page.every("svg")]
    assert names[:4] == ["Log loss minus that of single", "Reliability", "ROC", "Validation log loss (nats) by step"]
    assert len(names) == 4 + 4
    dots = [len(group.of_class("dot")) for group in list(page.every("svg"))[3].every("g")]
    # Evaluations after 20, 40 and 50 steps of the two arms that are one model each.
    assert [count for count in dots if count] == [3, 3]


def test_finished_comparison_is_left_alone_and_an_unfinished_one_goes_on(
    project: Project, compared: dict[str, Any]
) -> None:
    again = project.ctr("compare", "data", "--out", "comparison", *tiny(), *COMPARED)
    assert again.code == 2
    assert "is finished already" in again.error
    # As if it had been stopped just before its end: nothing is trained again, and the result is the same.
    (project.folder / "comparison" / "comparison.json").unlink()
    resumed = project.ctr("compare", "data", "--out", "comparison", *tiny(), *COMPARED)
    assert "step" not in resumed.err
    assert resumed.result["arms"] == compared["arms"]
    # MLflow has them once.
    client = MlflowClient(f"sqlite:///{project.folder}/mlflow.db")
    experiment = client.get_experiment_by_name("ctr")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], f"tags.comparison_id = '{compared['id']}'")
    assert len(runs) == 9
    other = project.ctr("compare", "data", "--out", "comparison", *tiny(train__epochs="3"), *COMPARED)
    assert other.code == 2


def test_rival_arms_are_runs_of_their_own_and_the_distilled_one_learns_from_the_singles(project: Project) -> None:
    arms = ["single", "single_wide", "single_ema", "label_smoothing", "ensemble", "ensemble_ema", "distilled"]
    settings = [
        *tiny(codistillation__weight="5"),
        f"compare.arms=[{','.join(arms)}]",
        "compare.retrainings=1",
        "compare.trials=0",
    ]
    settings += ["train.ema=0.9", "compare.label_smoothing=0.5"]
    compared = project.ctr("compare", "data", "--out", "rivals", *settings, "--json", timeout=600).result
    assert list(compared["arms"]) == arms
    found = {}
    runs = {"singles": "single", "singles_ema": "single_ema"}
    runs |= {arm: arm for arm in ("single_wide", "label_smoothing", "distilled")}
    for run, arm in runs.items():
        frame = pl.read_parquet(project.folder / "rivals" / f"{run}-0" / "group-0" / "scores-test.parquet")
        found[run] = frame["probability"].to_numpy()
        labels = frame["label"].to_numpy()
        assert compared["arms"][arm]["log_loss"]["mean"] == pytest.approx(log_loss(labels, found[run]))
        config = (project.folder / "rivals" / f"{run}-0" / "config.yaml").read_text()
        assert ("champion: null" in config) == (run != "distilled")
    other = pl.read_parquet(project.folder / "rivals" / "singles-0" / "group-1" / "scores-test.parquet")
    average = (found["singles"] + other["probability"].to_numpy()) / 2
    # The student comes closer to its teachers' mean than any model that learned from labels alone.
    distance = {run: float(np.abs(each - average).mean()) for run, each in found.items()}
    assert distance["distilled"] < min(distance["single_wide"], distance["label_smoothing"], distance["singles_ema"])
    # Labels moved half-way to the click rate make predictions vary less.
    assert found["label_smoothing"].std() < 0.8 * found["singles"].std()


def test_each_arm_searches_its_own_settings_and_a_search_that_was_stopped_goes_on(project: Project) -> None:
    settings = [*tiny(), "compare.arms=[single,codistilled]", "compare.retrainings=1", "compare.trials=3"]
    settings += ["compare.segments=[time,C9]", "compare.gauc=C9"]
    compared = project.ctr("compare", "data", "--out", "searched", *settings, "--json", timeout=600)
    assert "is not surely better than" in compared.err or "is better than" in compared.err
    result = compared.result
    for arm, kind in (("single", "singles"), ("codistilled", "codistilled")):
        best = result["arms"][arm]["search"]
        tried = []
        for number in range(3):
            run = json.loads((project.folder / "searched" / "search" / f"{kind}-{number}" / "run.json").read_text())
            tried.append(np.mean([member["log_loss"] for member in run["result"]["members"]]))
        assert best["log_loss"] == pytest.approx(min(tried))
        config = (project.folder / "searched" / f"{kind}-0" / "config.yaml").read_text()
        assert f"learning_rate: {best['settings']['optimizer.learning_rate']}" in config
        assert sum(one["rows"] for name, one in result["arms"][arm]["segments"].items() if name[:4] == "time") == 400
        assert 0 < result["arms"][arm]["gauc"] < 1
        assert result["arms"][arm]["costs"]["core_seconds"] > 0
        assert set(result["arms"][arm]["calibration"]) == {"isotonic", "platt"}
    # As if it had been stopped in the search: what was told of trials is kept, and nothing is trained again.
    (project.folder / "searched" / "comparison.json").unlink()
    again = project.ctr("compare", "data", "--out", "searched", *settings, "--json", timeout=600)
    assert again.result["arms"].keys() == result["arms"].keys()
    assert again.result["arms"]["single"]["search"] == result["arms"]["single"]["search"]
    assert "step" not in again.err


def test_rows_that_are_held_out_and_trained_on_are_refused(project: Project) -> None:
    """The same log twice in one: the last rows, value for value, were among the first."""
    log = (project.folder / "log.tsv").read_text()
    (project.folder / "twice.tsv").write_text(log + log)
    project.ctr("prepare", "twice.tsv", "--out", "twice", "--set", "features.buckets=4096", "--json").result
    refused = project.ctr("compare", "twice", "--out", "of-twice", *tiny(), "compare.trials=0")
    assert refused.code == 2
    assert "100% of the validation rows of twice are, value for value, among its training rows" in refused.error
    assert not (project.folder / "of-twice").exists()


def test_killed_comparison_leaves_no_process_and_goes_on_to_the_same_figures(
    project: Project, in_background: Start
) -> None:
    words = [*tiny(train__epochs="2"), "compare.arms=[single]", "compare.retrainings=2", "compare.trials=2", "--json"]
    whole = project.ctr("compare", "data", "--out", "unbroken", *words, timeout=600).result
    process = in_background("compare", "data", "--out", "killed-comparison", *words, cwd=project.folder)
    folder = project.folder / "killed-comparison"
    wait_for(lambda: list(folder.glob("singles-*/group-*/checkpoint/*.index")), process)
    started = [process.pid, *children(process.pid)]
    started += [grandchild for child in started[1:] for grandchild in children(child)]
    assert len(started) > 3
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in started):
        assert time.monotonic() < deadline, "a process outlived the comparison"
        time.sleep(0.1)
    trials = {path: path.stat().st_mtime_ns for path in folder.glob("search/*/run.json")}
    assert len(trials) == 2
    resumed = project.ctr("compare", "data", "--out", "killed-comparison", *words, timeout=600).result
    assert {path: path.stat().st_mtime_ns for path in trials} == trials
    for about in (whole, resumed):
        del about["arms"]["single"]["costs"]
    assert resumed["arms"] == whole["arms"]
