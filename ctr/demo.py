"""`make demo`: the main job on generated data, by the same commands that anybody would type."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from ctr.cluster import free_ports
from ctr.console import say, table

_CTR = Path(sys.executable).with_name("ctr")
_SECONDS_TO_SERVE = 60


def main() -> None:
    """Runs the demo in the folder `demo`, which it makes anew."""
    parser = argparse.ArgumentParser(description="The main job on generated data.")
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--folder", type=Path, default=Path("demo"))
    options = parser.parse_args()
    began = time.monotonic()
    config = Path("configs/demo.yaml").resolve()
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    os.chdir(options.folder)
    _run_all(options.rows, os.path.relpath(config))
    say(f"\nThe demo took {time.monotonic() - began:.0f} seconds. Everything it made is in {options.folder}/. Next:")
    say(f"  cd {options.folder}")
    say("  ../.venv/bin/ctr ui                          # the runs and the comparison, http://127.0.0.1:5000")
    say("  ../.venv/bin/ctr serve models:/ctr@champion  # TensorFlow Serving's REST, http://127.0.0.1:8501")


def _run_all(rows: int, config: str) -> None:
    _ctr(
        "1. A click log whose true click probabilities are known",
        "synth",
        "--rows",
        str(rows),
        "--out",
        "log.tsv",
        "--truth",
        "truth.parquet",
    )
    _ctr(
        "2. Raw log to encoded shards: first 80 % of the week to train, 10 % to validate, 10 % to test",
        "prepare",
        "log.tsv",
        "--out",
        "data",
        "--config",
        config,
    )
    _ctr(
        "3. Two models side by side, each learning from labels and from the other's predictions",
        "train",
        "data",
        "--out",
        "run",
        "--config",
        config,
    )
    _ctr("4. The served one of the two on the test rows", "evaluate", "run", "data")
    _ctr("5. A SavedModel that takes raw rows", "export", "run", "--out", "model")
    _ctr("6. Through the gate and into the registry", "promote", "run")
    with Path("log.tsv").open(encoding="utf-8") as log, Path("new.tsv").open("w", encoding="utf-8") as new:
        new.writelines(line for line, _ in zip(log, range(20_000), strict=False))
    _ctr("7. Scores for raw rows", "predict", "models:/ctr@champion", "new.tsv", "--out", "scores.parquet")
    _serve_once(Path("new.tsv"))
    compared = _ctr(
        "9. Is one codistilled model as good as two models averaged?",
        "compare",
        "data",
        "--out",
        "comparison",
        "--config",
        config,
        "--truth",
        "truth.parquet",
    )
    _conclude(compared)


def _ctr(title: str, *arguments: str) -> dict[str, Any]:
    """Runs one command, its progress on the screen, and returns its result."""
    say(f"\n{title}\n$ ctr {' '.join(arguments)}")
    done = subprocess.run([str(_CTR), *arguments, "--json"], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    result: dict[str, Any] = json.loads(done.stdout)
    plain = {key: value for key, value in result.items() if not isinstance(value, (dict, list))}
    say(
        ", ".join(
            f"{key} {_short(value)}" for key, value in plain.items() if key not in ("digest", "spec_digest", "path")
        )
    )
    for reason in result.get("reasons", []):
        say(f"- {reason}")
    return result


def _serve_once(log: Path) -> None:
    """Starts the server, asks it for the probability of one raw row, and stops it."""
    (port,) = free_ports(1)
    arguments = ["serve", "models:/ctr@champion", "--port", str(port)]
    say(f"\n8. A server that answers as TensorFlow Serving does\n$ ctr {' '.join(arguments)}")
    server = subprocess.Popen([str(_CTR), *arguments])
    try:
        url = f"http://127.0.0.1:{port}/v1/models/ctr"
        _wait_until_up(server, url)
        row = _instance(log.read_text(encoding="utf-8").split("\n", 1)[0])
        answer = httpx.post(f"{url}:predict", json={"instances": [row]})
        shown = json.dumps({"instances": [dict(list(row.items())[:3])]})[:-3]
        say(f"$ curl -d '{shown}, ...}}]}}' {url}:predict\n{answer.text}")
        if answer.status_code != 200:
            sys.exit(1)
    finally:
        server.terminate()
        server.wait()


def _wait_until_up(server: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + _SECONDS_TO_SERVE
    while server.poll() is None and time.monotonic() < deadline:
        try:
            httpx.get(url)
            return
        except httpx.TransportError:
            time.sleep(0.2)
    say("error: the server did not come up")
    sys.exit(1)


def _instance(line: str) -> dict[str, Any]:
    """A line of a Criteo log as a request's row; empty fields are left out."""
    values = line.split("\t")[1:]
    names = [*(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27))]
    return {n: int(v) if n[0] == "I" else v for n, v in zip(names, values, strict=True) if v}


def _conclude(compared: dict[str, Any]) -> None:
    names = {
        "single": "single model",
        "ensemble": "average of two",
        "codistilled": "codistilled model",
        "truth": "the truth itself",
    }
    rows: list[Sequence[str]] = []
    for arm, name in names.items():
        about = compared["arms"][arm]
        loss = about["log_loss"]
        models = about.get("models_served", "-")
        changed = "-" if about["churn"] is None else f"{about['churn']:.4f}"
        figures = [f"{loss['mean']:.5f}", f"{about['auc']:.4f}", f"{about['ece']:.4f}", changed, str(models)]
        rows.append([name, *figures])
    title = f"{compared['rows']:,} test rows, mean of {compared['retrainings']} retrainings"
    table(title, ["", "log loss (nats)", "AUC", "ECE", "churn", "models served"], rows)
    for sentence in compared["sentences"]:
        say(sentence)


def _short(value: object) -> str:
    return f"{value:,.5g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
