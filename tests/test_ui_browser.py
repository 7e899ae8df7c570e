"""MLflow's own UI, opened on a comparison in a real browser."""

from typing import Any

import httpx
import pytest
from browser import open_browser, screenshot
from conftest import Project, Start
from servers import wait_until_up

from ctr.cluster import free_ports

pytestmark = pytest.mark.processes


def test_comparison_and_its_compare_page_show_the_log_loss_of_every_arm(
    project: Project, compared: dict[str, Any], in_background: Start
) -> None:
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    wait_until_up(in_background("ui", "--port", port, cwd=project.folder), f"{address}/")
    experiment = httpx.get(
        f"{address}/api/2.0/mlflow/experiments/get-by-name", params={"experiment_name": "ctr"}
    ).json()["experiment"]["experiment_id"]
    (whole,), runs = (
        httpx.post(
            f"{address}/api/2.0/mlflow/runs/search",
            json={"experiment_ids": [experiment], "filter": f"tags.comparison = 'comparison' and tags.kind = '{kind}'"},
        ).json()["runs"]
        for kind in ("comparison", "arm")
    )
    with open_browser() as (page, errors):
        page.goto(f"{address}/#/experiments/{experiment}/runs/{whole['info']['run_id']}")
        link = page.get_by_text("All retrainings side by side")
        link.wait_for(timeout=60_000)
        note = page.inner_text("body")
        screenshot(page, "mlflow-comparison")
        with page.expect_popup() as popup:
            link.click()
        side_by_side = popup.value
        # The grid of metrics is made of cells that know only where they stand.
        name = side_by_side.get_by_title("Plot chart").filter(has_text="test_log_loss")
        top = name.evaluate("link => link.parentElement.style.top", timeout=60_000)
        first, *shown = side_by_side.locator(f"div[style*='top: {top};']").all_inner_texts()
        names = side_by_side.locator("tr", has_text="Run Name").inner_text().split()[2:]
        picture = screenshot(side_by_side, "mlflow-retrainings")
    for about in compared["arms"].values():
        assert f"{about['log_loss']['mean']:.5f}" in note
    assert all(sentence in note for sentence in compared["sentences"])
    assert first == "test_log_loss"
    by_name = {run["info"]["run_name"]: run["data"]["metrics"] for run in runs}
    losses = [metric["value"] for name in names for metric in by_name[name] if metric["key"] == "test_log_loss"]
    # The page rounds to three places.
    assert [float(loss) for loss in shown] == pytest.approx(losses, abs=5.1e-4)
    assert names == [
        f"comparison/{arm}-{retraining}" for arm in compared["arms"] if arm != "truth" for retraining in (0, 1)
    ]
    assert not errors
    assert picture.stat().st_size > 20_000
