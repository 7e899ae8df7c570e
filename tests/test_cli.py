"""The command line: exit codes, one JSON object, and what each kind of bad input gets: one line, and no leftovers."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Project, run_ctr, tiny


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of 300 rows in a folder of its own."""
    run_ctr("synth", "--rows", 300, "--out", "log.tsv", "--json", cwd=tmp_path).result
    return tmp_path / "log.tsv"


def left(folder: Path) -> set[str]:
    """All that lies in a folder, hidden or not."""
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prepare", "absent.tsv", "--out", "data"], "input absent.tsv does not exist"),
        (["prepare", "*.csv", "--out", "data"], "no file matches *.csv"),
        (["prepare", "empty.tsv", "--out", "data"], "input empty.tsv is empty"),
        (["prepare", "log.tsv", "--out", "data", "--split", "weekly"], "prepare.split"),
        (["prepare", "log.tsv", "--out", "data", "--set", "prepare.tset=0.2"], "did you mean 'test'?"),
        (["prepare", "log.tsv", "--out", "data", "--config", "absent.yaml"], "cannot read absent.yaml"),
        (["prepare", "log.tsv", "--out", "data", "--spec", "nothing"], "no feature spec in nothing"),
        (
            ["prepare", "log.tsv", "--out", "data", "--config", "typo.yaml"],
            "'codistilation': did you mean 'codistillation'?",
        ),
        (["prepare", "log.tsv", "--out", "data", "--config", "wrong.yaml"], "'train.epochs' got 'many'"),
        (["prepare", "log.tsv", "--out", "log.tsv"], "log.tsv exists already"),
        (["train", "absent", "--out", "run"], "absent is no prepared data: it does not exist"),
        (["train", ".", "--out", "run"], ". is no prepared data: it has no manifest.json"),
        (["evaluate", "absent", "log.tsv"], "model absent does not exist"),
        (["evaluate", ".", "log.tsv"], ". is neither a run nor a SavedModel"),
        (["predict", "absent", "log.tsv", "--out", "scores.parquet"], "model absent does not exist"),
        (["export", "absent", "--out", "model"], "model absent does not exist"),
        (["promote", "absent"], "model absent does not exist"),
        (["promote", "absent", "--alias", "two words"], "alias 'two words' cannot be used"),
        (["rollback", "--alias", "previous"], "alias 'previous' moves with the one whose previous version it is"),
        (["serve", "absent"], "model absent does not exist"),
        (["compare", "absent", "--out", "comparison"], "absent is no prepared data"),
        (["validate", "typo.yaml"], "unknown key 'codistilation'"),
        (["fetch", "critio", "--out", "downloads"], "unknown data set 'critio': did you mean 'criteo'?"),
        (["synth", "--rows", "0", "--out", "x.tsv"], "--rows"),
        (["synth", "--rows", "many", "--out", "x.tsv"], "--rows"),
        (["prepare"], "Missing argument"),
        (["prepair"], "No such command 'prepair'"),
        (["train", "data", "--out", "run", "--fast"], "No such option"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_leaves_nothing(log: Path, arguments: list[str], words: str) -> None:
    folder = log.parent
    (folder / "empty.tsv").touch()
    (folder / "typo.yaml").write_text("codistilation:\n  weight: 2\n")
    (folder / "wrong.yaml").write_text("train:\n  epochs: many\n")
    before = left(folder)
    done = run_ctr(*arguments, cwd=folder)
    assert done.code == 2, done.err
    assert words in done.error
    assert done.out == ""
    assert left(folder) == before


def test_rows_with_a_wrong_number_of_fields_are_counted_and_kept_aside(log: Path) -> None:
    lines = log.read_text().splitlines()
    lines[6] += "\textra"
    lines[9] = "1\tonly\tthree"
    log.write_text("".join(line + "\n" for line in lines))
    done = run_ctr("prepare", "log.tsv", "--out", "data", "--json", cwd=log.parent).result
    assert (done["rows"], done["rows_rejected"]) == (298, 2)
    kept = [json.loads(line) for line in (log.parent / "data" / "rejected.ndjson").read_text().splitlines()]
    assert [(each["line"], each["reason"]) for each in kept] == [
        (7, "41 fields instead of 40"),
        (10, "3 fields instead of 40"),
    ]
    assert [each["text"] for each in kept] == [lines[6], lines[9]]


def test_a_non_integer_in_an_integer_field_is_named(log: Path) -> None:
    lines = log.read_text().splitlines()
    fields = lines[4].split("\t")
    fields[3] = "twelve"
    lines[4] = "\t".join(fields)
    log.write_text("".join(line + "\n" for line in lines))
    strict = run_ctr("prepare", "log.tsv", "--out", "data", "--set", "prepare.max_reject_rate=0", cwd=log.parent)
    assert strict.code == 2
    assert "log.tsv line 5: I3 is 'twelve', no integer" in strict.error
    assert left(log.parent) == {"log.tsv"}
    assert run_ctr("prepare", "log.tsv", "--out", "data", "--json", cwd=log.parent).result["rows_rejected"] == 1


def test_json_is_one_object_alone_on_standard_output(log: Path) -> None:
    done = run_ctr("prepare", "log.tsv", "--out", "data", "--json", cwd=log.parent)
    assert done.out.count("\n") == 1
    wanted = {"rows", "rows_rejected", "rows_per_second", "peak_rss_mb", "features", "shards", "digest"}
    assert wanted <= set(json.loads(done.out))
    assert "reading: 300 of 300" in done.err


def test_without_json_nothing_is_on_standard_output(log: Path) -> None:
    done = run_ctr("prepare", "log.tsv", "--out", "data", cwd=log.parent)
    assert done.code == 0
    assert done.out == ""
    assert "rows rejected" in done.err


def test_validate_says_valid(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text("train:\n  epochs: 3\n")
    assert run_ctr("validate", "good.yaml", "--json", cwd=tmp_path).result["valid"] is True


@pytest.mark.processes
class TestWithARun:
    """What needs a trained model."""

    def test_evaluate_reports_every_figure_on_raw_logs_and_on_shards(self, project: Project) -> None:
        raw = project.ctr("evaluate", "run", "log.tsv", "--json").result
        encoded = project.ctr("evaluate", "run", "data", "--part", "train", "--json").result
        figures = {"rows", "log_loss", "normalized_entropy", "auc", "ece", "mean_prediction", "click_rate"}
        assert figures <= set(raw)
        assert figures <= set(encoded)
        assert (raw["rows"], encoded["rows"]) == (4000, 3200)

    def test_predict_on_rows_that_are_none_names_the_first_and_leaves_nothing(self, project: Project) -> None:
        (project.folder / "none.tsv").write_text("no row\nnor this\n")
        done = project.ctr("predict", "run", "none.tsv", "--out", "none.parquet")
        assert done.code == 2
        assert "none of the 2 rows of none.tsv could be read; the first is none.tsv line 1: 1 fields" in done.error
        assert not list(project.folder.glob("*none.parquet*"))

    def test_data_of_another_spec_are_refused_naming_both_digests(self, project: Project) -> None:
        other = project.folder / "other-spec"
        if not other.exists():
            changed = ["--set", "features.buckets=512", "--json"]
            project.ctr("prepare", "log.tsv", "--out", "other-spec", *changed).result
        refused = project.ctr("evaluate", "run", "other-spec")
        assert refused.code == 2
        digests = [
            json.loads((project.folder / d / "manifest.json").read_text())["spec_digest"]
            for d in ("data", "other-spec")
        ]
        assert all(digest in refused.error for digest in digests)

    def test_empty_part_is_refused_naming_those_that_are_not(self, project: Project) -> None:
        refused = project.ctr("evaluate", "run", "data", "--part", "tests")
        assert refused.code == 2
        assert "train, validation, test" in refused.error

    def test_predict_keeps_unreadable_rows_aside(self, project: Project, tmp_path: Path) -> None:
        lines = (project.folder / "log.tsv").read_text().splitlines()[:20]
        lines[3] = "broken"
        (tmp_path / "new.tsv").write_text("".join(line + "\n" for line in lines))
        done = project.ctr(
            "predict", "run", tmp_path / "new.tsv", "--out", tmp_path / "scores.parquet", "--json"
        ).result
        assert (done["rows"], done["rows_rejected"]) == (19, 1)
        rejected = json.loads((tmp_path / "scores.parquet.rejected.ndjson").read_text())
        assert (rejected["line"], rejected["text"]) == (4, "broken")

    def test_predict_without_a_readable_row_writes_nothing(self, project: Project, tmp_path: Path) -> None:
        (tmp_path / "new.tsv").write_text("broken\nagain\n")
        refused = project.ctr("predict", "run", tmp_path / "new.tsv", "--out", tmp_path / "scores.parquet")
        assert refused.code == 2
        assert "none of the 2 rows" in refused.error
        assert left(tmp_path) == {"new.tsv"}

    def test_run_folder_that_is_not_one(self, project: Project, tmp_path: Path) -> None:
        (tmp_path / "notes").mkdir()
        refused = project.ctr("train", "data", "--out", tmp_path / "notes", *tiny())
        assert refused.code == 2
        assert "exists but is no run" in refused.error
        assert left(tmp_path / "notes") == set()

    @pytest.mark.parametrize("command", ["promote", "evaluate"])
    def test_comparison_is_no_model_but_its_runs_are(self, project: Project, tmp_path: Path, command: str) -> None:
        (tmp_path / "comparison" / "search").mkdir(parents=True)
        (tmp_path / "comparison" / "comparison.json").write_text("{}")
        (tmp_path / "comparison" / "codistilled-0").symlink_to(project.folder / "run")
        arguments = ["data"] if command == "evaluate" else []
        refused = project.ctr(command, tmp_path / "comparison", *arguments)
        assert refused.code == 2
        named = f"{tmp_path}/comparison/codistilled-0"
        assert refused.error.endswith(f"is a comparison, not a model; give one of its runs, such as {named}")
        assert project.ctr("evaluate", named, "data", "--json").result["rows"] == 400

    def test_store_that_cannot_be_used_is_work_failed(self, project: Project, tmp_path: Path) -> None:
        store = {"MLFLOW_TRACKING_URI": "nonsense://nowhere"}
        failed = project.ctr("train", "data", "--out", tmp_path / "run", *tiny(), env=store)
        assert failed.code == 1
        assert "the tracking store" in failed.error


def test_every_command_explains_itself(tmp_path: Path) -> None:
    names = [
        "synth",
        "fetch",
        "prepare",
        "drift",
        "train",
        "evaluate",
        "compare",
        "export",
        "promote",
        "rollback",
        "predict",
        "serve",
    ]
    explained: Callable[[str], str] = lambda name: run_ctr(name, "--help", cwd=tmp_path).out  # noqa: E731
    for name in [*names, "ui", "validate"]:
        assert f"Usage: ctr {name}" in explained(name)
