"""Groups publish snapshots of their weights and fetch their peers': verified files in a folder that all of them see.

Layout: `EXCHANGE/group-G/step-S.safetensors` and, written after it, its manifest `step-S.json`. Both are written aside
and renamed into place, and a snapshot is there when its manifest is: a reader sees a whole one or none.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Snapshot:
    """A peer's weights as float32 arrays by name, and the step that it published them at."""

    group: int
    step: int
    weights: dict[str, NDArray[np.float32]]


def fingerprint(weights: Mapping[str, Any], spec_digest: str) -> str:
    """SHA-256 of the weights' names and shapes and the feature spec: what two models must share to be peers."""
    shapes = sorted((name, [int(n) for n in weight.shape]) for name, weight in weights.items())
    return hashlib.sha256(json.dumps([shapes, spec_digest]).encode()).hexdigest()


class Exchange:
    """One group's view of the exchange folder."""

    def __init__(self, folder: Path, *, group: int, fingerprint: str, dtype: str, keep_steps: int):
        """Own snapshots older than `keep_steps` steps are removed; weights travel as `dtype` (float16 or float32)."""
        self.folder, self.group, self.fingerprint = folder, group, fingerprint
        self.dtype, self.keep_steps = np.dtype(dtype), keep_steps
        self._own = folder / f"group-{group}"
        self._own.mkdir(parents=True, exist_ok=True)
        for left in self._own.glob(".step-*"):
            left.unlink(missing_ok=True)  # by a process that was killed while it published

    def publish(self, step: int, weights: Mapping[str, NDArray[np.float32]]) -> int:
        """Makes this group's weights at `step` visible to the others; returns the bytes written."""
        body = save_arrays({name: weight.astype(self.dtype) for name, weight in weights.items()})
        manifest = {
            "group": self.group,
            "step": step,
            "sha256": hashlib.sha256(body).hexdigest(),
            "bytes": len(body),
            "fingerprint": self.fingerprint,
        }
        body_path, manifest_path = self._paths(self.group, step)
        _write_whole(body_path, body)
        _write_whole(manifest_path, json.dumps(manifest).encode())
        self._clean(step)
        return len(body)

    def wait_for(
        self, peer: int, step: int, timeout: float, alive: Callable[[], None] = lambda: None
    ) -> Snapshot | None:
        """The peer's snapshot of exactly this step; None if it does not come within `timeout` seconds or is unfit.

        `alive` is called while waiting, so that the caller can end the wait by raising.
        """
        _, manifest_path = self._paths(peer, step)
        deadline = time.monotonic() + timeout
        while not manifest_path.exists():
            # A peer that is ahead has published this step already or never will: it is no use to wait.
            ahead = max(self._steps(peer), default=step) > step
            if ahead or time.monotonic() > deadline:
                return self._read(peer, step) if manifest_path.exists() else None
            alive()
            time.sleep(_POLL_SECONDS)
        return self._read(peer, step)

    def newest(self, peer: int, *, since: int) -> Snapshot | None:
        """The newest fit snapshot of a peer from step `since` or later; None if there is none."""
        for step in sorted(self._steps(peer), reverse=True):
            if step >= since and (snapshot := self._read(peer, step)) is not None:
                return snapshot
        return None

    def _steps(self, group: int) -> list[int]:
        """The steps of a group's snapshots that are there."""
        found = (self.folder / f"group-{group}").glob("step-*.json")
        return [int(path.stem.removeprefix("step-")) for path in found]

    def _paths(self, group: int, step: int) -> tuple[Path, Path]:
        stem = self.folder / f"group-{group}" / f"step-{step:09d}"
        return stem.with_suffix(".safetensors"), stem.with_suffix(".json")

    def _read(self, peer: int, step: int) -> Snapshot | None:
        """A snapshot, if it is whole, of the same model and finite; otherwise None, with a warning that says why."""
        body_path, manifest_path = self._paths(peer, step)
        try:
            manifest = json.loads(manifest_path.read_bytes())
            body = body_path.read_bytes()
            problem = self._problem(manifest, body, peer, step)
            weights = {} if problem else {k: v.astype(np.float32) for k, v in load_arrays(body).items()}
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            problem, weights = f"{type(error).__name__}: {error}", {}
        if not problem and not all(np.isfinite(weight).all() for weight in weights.values()):
            problem = "it holds values that are not finite"
        if problem:
            import logging

            logging.getLogger("ctr").warning("refused snapshot %s of group %d: %s", body_path, peer, problem)
            return None
        return Snapshot(peer, step, weights)

    def _problem(self, manifest: dict[str, Any], body: bytes, peer: int, step: int) -> str:
        if manifest["fingerprint"] != self.fingerprint:
            return f"it is of another model, {manifest['fingerprint'][:12]} instead of {self.fingerprint[:12]}"
        if (manifest["group"], manifest["step"]) != (peer, step):
            return f"its manifest says group {manifest['group']} step {manifest['step']}"
        if hashlib.sha256(body).hexdigest() != manifest["sha256"]:
            return f"its {len(body)} bytes do not have the digest in its manifest"
        return ""

    def _clean(self, step: int) -> None:
        for manifest_path in self._own.glob("step-*.json"):
            if int(manifest_path.stem.removeprefix("step-")) < step - self.keep_steps:
                # The manifest first: without it the snapshot is not there for a reader.
                manifest_path.unlink(missing_ok=True)
                manifest_path.with_suffix(".safetensors").unlink(missing_ok=True)


def _write_whole(path: Path, content: bytes) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
