"""The runs of a comparison: searched, trained side by side, and each arm's predictions made of theirs."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctr.arms import RUN_OF, SINGLES, SINGLES_EMA, runs_of, settings_of
from ctr.baselines import average, logistic_regression
from ctr.cluster import seats_here
from ctr.config import Config, with_settings
from ctr.console import Bars
from ctr.data import Data
from ctr.forks import Fork
from ctr.jobs import Job, run_jobs
from ctr.launch import train_run
from ctr.runs import is_run, read_run, scores_file
from ctr.search import Found, Settings, search
from features.errors import WorkFailed
from features.output import file_appears_whole

# Seeds of retrainings lie this far apart, further than those of a run's groups; the search has the last ones.
RETRAINING_SEEDS = 100_000
_SEARCH_SEED = 50_000
# What a finished trial need not keep.
_BULKY = ("group-*/checkpoint*", "group-*/worker-*-checkpoint", "exchange")

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Trained:
    """What an arm says after one retraining, and what that took.

    Attributes:
        predictions: probabilities `[rows]` by part.
        members: the results of all groups that had to be trained for it.
        served: the number of models that answer.
        run_id: in MLflow, of the group that serves; None where several do, or none of ours.
        model: the served SavedModel's folder, likewise.
    """

    predictions: dict[str, Array]
    members: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    served: int = 1
    run_id: str | None = None
    model: Path | None = None


class ArmRuns:
    """The runs that the arms of a comparison take, in its folder; what is finished there is not trained again."""

    def __init__(self, data: Data, out: Path, config: Config, parts: Sequence[str], bars: Bars):
        """`parts`: those to predict. As many processes run at a time as there are cores for."""
        self.data, self.out, self.config, self.parts, self.bars = data, out, config, list(parts), bars
        self.seats = max(1, len(os.sched_getaffinity(0)) // config.train.threads)
        self.kinds = runs_of(config.compare.arms)
        runs = config.compare.retrainings + config.compare.trials
        bars.expect(f"comparison {out.name}", sum(runs * self._steps(kind) for kind in self.kinds))

    def search(self) -> dict[str, Found]:
        """The best settings of each kind of run; none without trials."""
        if not self.config.compare.trials:
            return {}
        found: dict[str, Found] = {}
        for kind in self.kinds:
            if kind == "distilled":
                # Its teachers are those of the first retraining.
                self._train_all([(SINGLES, 0)], found)
            found[kind] = search(
                kind,
                self.config,
                trials=self.config.compare.trials,
                seed=self.config.train.seed + _SEARCH_SEED,
                storage=self.out / "search.db",
                measure=lambda trials, kind=kind: self._measure(kind, trials),
            )
        return found

    def train(self, found: Mapping[str, Found], say: Callable[[str], None]) -> dict[str, list[Trained]]:
        """Each arm's retrainings, with its best settings."""
        retrainings = range(self.config.compare.retrainings)
        # A student after its teachers.
        for late in (False, True):
            self._train_all([(k, r) for k in self.kinds for r in retrainings if (k == "distilled") == late], found)
        return {arm: [self._of_arm(arm, r, say) for r in retrainings] for arm in self.config.compare.arms}

    def _train_all(self, wanted: Sequence[tuple[str, int]], found: Mapping[str, Found]) -> None:
        jobs: list[Job[None]] = []
        for kind, retraining in wanted:
            folder = self._folder(kind, retraining)
            tags = {"kind": "member", "comparison": self.out.name, "arm": kind, "retraining": str(retraining)}
            config = self._config(kind, retraining, found[kind].settings if kind in found else {})
            jobs.append(self._job(folder, config, f"{kind} {retraining}", self._steps(kind), tags, self.parts))
        run_jobs(jobs, self.seats)

    def _measure(self, kind: str, trials: Mapping[int, Settings]) -> list[float | None]:
        """The mean log loss of each trial's groups on the validation part."""
        folders = [self.out / "search" / f"{kind}-{number}" for number in trials]
        jobs: list[Job[None]] = []
        for folder, (number, settings) in zip(folders, trials.items(), strict=True):
            tags = {"kind": "trial", "comparison": self.out.name, "arm": kind, "trial": str(number)}
            config = self._config(kind, 0, settings, seed=_SEARCH_SEED)
            if kind in (SINGLES, SINGLES_EMA):
                # Of independent models one tells as much.
                config = with_settings(config, {"codistillation.groups": 1})
            jobs.append(self._job(folder, config, f"{kind}, trial {number}", self._steps(kind), tags, None))
        run_jobs(jobs, self.seats)
        losses: list[float | None] = []
        for folder in folders:
            about = read_run(folder)
            finished = about["status"] == "finished"
            losses.append(
                float(np.mean([member["log_loss"] for member in about["result"]["members"]])) if finished else None
            )
            for pattern in _BULKY:
                for each in folder.glob(pattern):
                    shutil.rmtree(each, ignore_errors=True)
        return losses

    def _job(
        self, folder: Path, config: Config, title: str, steps: int, tags: dict[str, str], score: list[str] | None
    ) -> Job[None]:
        """A run to train unless it is finished; without `score` it is a trial, of which the figures are kept."""

        def work(alive: Callable[[], None]) -> None:
            if is_run(folder) and read_run(folder)["status"] == "finished":
                self.bars.advance(steps, f"{title} was finished already")
                return
            try:
                with self.bars.run(title) as follow:
                    result = train_run(
                        self.data,
                        folder,
                        config,
                        follow=follow,
                        score=score or [],
                        keep_model=score is not None,
                        tags=tags,
                        seats=seats_here(Fork),
                        alive=alive,
                    )
            except WorkFailed as error:
                if score is not None:
                    raise
                self.bars.advance(steps, f"{title} failed: {error}")
                return
            self.bars.advance(steps, f"{title} done: validation log loss {result['log_loss']:.5f}")

        return Job(config.codistillation.groups * config.train.workers_per_group, work)

    def _config(self, kind: str, retraining: int, settings: Settings, *, seed: int = 0) -> Config:
        return settings_of(
            kind,
            with_settings(self.config, settings),
            seed=self.config.train.seed + RETRAINING_SEEDS * retraining + seed,
            spec=self.data.spec,
            singles=self._folder(SINGLES, retraining),
        )

    def _steps(self, kind: str) -> int:
        """About how many steps a run of this kind takes, over its groups."""
        config = self._config(kind, 0, {})
        rows = self.data.parts["train"].rows
        return max(1, int(config.train.epochs * rows / config.train.batch_size)) * config.codistillation.groups

    def _folder(self, kind: str, retraining: int) -> Path:
        return self.out / f"{kind}-{retraining}"

    def _of_arm(self, arm: str, retraining: int, say: Callable[[str], None]) -> Trained:
        if arm == "logistic":
            return Trained(self._logistic(say))
        folder = self._folder(RUN_OF[arm], retraining)
        result = read_run(folder)["result"]
        members = result["members"]
        if arm in ("ensemble", "ensemble_ema"):
            each = [self._scores(folder, group) for group in range(len(members))]
            mean = {part: average([scores[part] for scores in each]) for part in self.parts}
            return Trained(mean, members, len(members))
        # Of independent models the first: to choose the better one would be an advantage of its own.
        first = arm in ("single", "single_ema")
        served = 0 if first else result["served_group"]
        taught_by = read_run(self._folder(SINGLES, retraining))["result"]["members"] if arm == "distilled" else []
        trained = [*members[:1], *taught_by] if first or arm == "distilled" else members
        model = folder / f"group-{served}" / "model"
        return Trained(self._scores(folder, served), trained, 1, members[served]["run_id"], model)

    def _scores(self, folder: Path, group: int) -> dict[str, Array]:
        frames = {part: pl.read_parquet(scores_file(folder, group, part)) for part in self.parts}
        return {part: frame["probability"].to_numpy() for part, frame in frames.items()}

    def _logistic(self, say: Callable[[str], None]) -> dict[str, Array]:
        """The same in every retraining: its optimum is one."""
        paths = {part: self.out / f"logistic-{part}.npy" for part in self.parts}
        if not all(path.exists() for path in paths.values()):
            say("fitting logistic regression")
            fitted = logistic_regression(self.data, self.parts, seed=self.config.train.seed, say=say)
            for part, path in paths.items():
                with file_appears_whole(path) as aside, aside.open("wb") as file:
                    np.save(file, fitted[part])
        return {part: np.load(path) for part, path in paths.items()}
