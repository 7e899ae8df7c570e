"""MLflow's own UI, opened on a comparison in a real browser."""

import json
from typing import Any

import httpx
import pytest
from browser import open_browser, screenshot
from conftest import Project, Start
from servers import wait_until_up

from ctr.cluster import free_ports

pytestmark = pytest.mark.processes


def test_compare_page_shows_the_log_loss_of_every_arm(
    project: Project, compared: dict[str, Any], in_background: Start
) -> None:
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    wait_until_up(in_background("ui", "--port", port, cwd=project.folder), f"{address}/")
    experiment = httpx.get(
        f"{address}/api/2.0/mlflow/experiments/get-by-name", params={"experiment_name": "ctr"}
    ).json()["experiment"]["experiment_id"]
    wanted = "tags.comparison = 'comparison' and tags.kind = 'arm'"
    runs = httpx.post(
        f"{address}/api/2.0/mlflow/runs/search", json={"experiment_ids": [experiment], "filter": wanted}
    ).json()["runs"]
    ids = [run["info"]["run_id"] for run in runs]
    with open_browser() as (page, errors):
        page.goto(f"{address}/#/compare-runs?runs={json.dumps(ids)}&experiments={json.dumps([experiment])}")
        # The grid of metrics is made of cells that know only where they stand.
        name = page.get_by_title("Plot chart").filter(has_text="test_log_loss")
        top = name.evaluate("link => link.parentElement.style.top", timeout=60_000)
        first, *shown = page.locator(f"div[style*='top: {top};']").all_inner_texts()
        names = page.locator("tr", has_text="Run Name").inner_text().split()[2:]
        picture = screenshot(page, "mlflow-comparison")
    assert first == "test_log_loss"
    losses = [metric["value"] for run in runs for metric in run["data"]["metrics"] if metric["key"] == "test_log_loss"]
    # The page rounds to three places.
    assert [float(loss) for loss in shown] == pytest.approx(losses, abs=5.1e-4)
    assert names == [run["info"]["run_name"] for run in runs]
    assert {name.removeprefix("comparison/") for name in names} == {
        f"{arm}-{retraining}" for arm in compared["arms"] if arm != "truth" for retraining in (0, 1)
    }
    assert not errors
    assert picture.stat().st_size > 20_000
