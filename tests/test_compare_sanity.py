"""What a comparison must say of nothing: of labels without meaning, and of the same training twice."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import Project, tiny

from ctr.metrics import churn

pytestmark = pytest.mark.processes


def test_labels_without_meaning_make_no_arm_better(project: Project) -> None:
    lines = (project.folder / "log.tsv").read_text().splitlines()
    order = np.random.default_rng(1).permutation(len(lines))
    shuffled = [f"{lines[other][0]}{line[1:]}\n" for line, other in zip(lines, order, strict=True)]
    (project.folder / "shuffled.tsv").write_text("".join(shuffled))
    settings = ["--set", "features.buckets=4096", "--set", "prepare.test=0.3"]
    project.ctr("prepare", "shuffled.tsv", "--out", "shuffled", *settings, "--json").result
    words = ["--out", "of-shuffled", *tiny(train__early_stopping="2"), "compare.trials=0", "compare.retrainings=2"]
    found = project.ctr("compare", "shuffled", *words, "--json", timeout=600)
    assert len(found.result["arms"]) == 4
    for about in found.result["arms"].values():
        # With 1,200 rows of which a quarter are clicks, chance alone moves AUC by .019 (standard error).
        assert about["auc"] == pytest.approx(0.5, abs=0.06)
    assert found.result["winner"] is None
    assert found.result["differences"] == []
    assert found.result["sentences"] == [
        f"{arm} is not surely better than predicting the click rate for every row" for arm in found.result["arms"]
    ]
    assert "is better than" not in found.err


def test_the_same_training_twice_differs_in_nothing(project: Project, compared: dict[str, Any]) -> None:
    words = [*tiny(), "compare.trials=0", "compare.retrainings=1", "compare.arms=[single,ensemble,codistilled]"]
    again = project.ctr("compare", "data", "--out", "same-again", *words, "--json", timeout=600).result
    assert set(again["arms"]) == {"single", "ensemble", "codistilled"}
    for run in ("singles-0", "codistilled-0"):
        for group in (0, 1):
            first, second = (
                pl.read_parquet(project.folder / of / run / f"group-{group}" / "scores-test.parquet")
                for of in ("comparison", "same-again")
            )
            assert churn(first["probability"].to_numpy(), second["probability"].to_numpy()) == 0
            assert first.equals(second)
    assert compared["arms"].keys() > again["arms"].keys()
