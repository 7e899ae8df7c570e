"""Groups publish snapshots of their weights and fetch their peers': verified files in a place that all of them see.

Layout: `ADDRESS/group-G/P-SSSSSSSSS-DIGEST.safetensors`, of a phase and step, and, written after it, its manifest
`P-SSSSSSSSS.json`. A snapshot is there when its manifest is; published again, it changes with it in one move. One in
`full_every` is whole; the others hold, of the embedding tables, only the rows that changed since the one before, and
continue a chain that begins with a whole one.
"""

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ctr.snapshot import Changes, Link, Moment, Shapes, Unfit, describe, pack, read_manifest, unpack
from ctr.store import Store, StoreError

_FINISHED = "finished.json"
_SECONDS_BETWEEN_WARNINGS = 60.0


class ExchangeError(Exception):
    """A snapshot could not be published; the message is one line."""


@dataclass(frozen=True)
class Snapshot:
    """A peer's weights: parts to be applied in turn, to nothing if the first is whole, else to what was last read."""

    group: int
    moment: Moment
    parts: list[Changes]
    bytes: int


def fingerprint(weights: Mapping[str, Any], spec_digest: str) -> str:
    """SHA-256 of the weights' names and shapes and the feature spec: what two models must share to be peers."""
    shapes = sorted((name, [int(n) for n in weight.shape]) for name, weight in weights.items())
    return hashlib.sha256(json.dumps([shapes, spec_digest]).encode()).hexdigest()


class Exchange:
    """One group's view of the place where snapshots are exchanged."""

    def __init__(
        self,
        address: str,
        *,
        group: int,
        fingerprint: str,
        shapes: Shapes,
        dtype: str,
        embeddings: Collection[str] = (),
        keep: int,
        full_every: int,
    ):
        """The `keep` newest own snapshots stay, and what they continue.

        Weights travel as `dtype`, float32, float16 or, where they are among `embeddings`, int8.

        Raises nothing: a place that cannot be reached now may be reached later.
        """
        self.store, self.group, self.fingerprint, self.shapes = Store(address), group, fingerprint, shapes
        self.dtype, self.embeddings, self.keep, self.full_every = dtype, embeddings, keep, full_every
        # Own snapshots that are there. A process that begins anew begins with a whole one.
        self._links: dict[Moment, Link] = {}
        self._last: Link | None = None
        self._since_full = 0
        # The digest of what was last read of each peer: only that one can be continued.
        self._read_last: dict[int, str] = {}
        self._warned: dict[str, float] = {}
        self._clear_up()

    @property
    def wants_full(self) -> bool:
        """Whether the next snapshot must be whole."""
        return self._last is None or self._since_full + 1 >= self.full_every

    def publish(self, moment: Moment, changes: Changes) -> int:
        """Makes this group's weights visible to the others; returns the bytes written.

        `changes` is against the snapshot published before, or whole where `wants_full` says so. Raises ExchangeError
        if the place cannot be reached or is full; then nothing is there, and the next snapshot has to be whole.
        """
        partial = bool(changes.rows) and self._last is not None
        base = (self._last.moment, self._last.digest) if partial and self._last else None
        body = pack(changes, self.dtype, self.embeddings)
        link = Link(self.group, moment, hashlib.sha256(body).hexdigest(), len(body), base)
        manifest = describe(link, self.fingerprint)
        try:
            if self._last is None:
                self.store.remove(f"{_folder(self.group)}/{_FINISHED}")
            self.store.put(_body(link), body)
            self.store.put(_manifest(self.group, moment), manifest)
        except StoreError as error:
            self._last = None
            self.store.remove(_body(link))
            raise ExchangeError(str(error)) from None
        earlier = self._links.get(moment)
        if earlier and earlier.digest != link.digest:
            self.store.remove(_body(earlier))
        self._links[moment] = self._last = link
        self._since_full = self._since_full + 1 if partial else 0
        self._clean()
        return len(body) + len(manifest)

    def wait_for(
        self,
        peer: int,
        moment: Moment,
        timeout: float,
        alive: Callable[[], None] = lambda: None,
        *,
        have: Moment | None,
    ) -> Snapshot | None:
        """The peer's snapshot of exactly this moment; None if it is unfit or nothing new comes for `timeout` seconds.

        Nor is a peer waited for that has gone past this moment or ended before it. `alive` is called while waiting, so
        that the caller can end the wait by raising. `have` is the moment of this peer's snapshot in use.
        """
        deadline, newest = time.monotonic() + timeout, None
        while True:
            late = time.monotonic() > deadline
            ended = self.finished(peer)
            moments = self._moments(peer)  # after that: the end is told after the last snapshot
            if moment in moments:
                with contextlib.suppress(StoreError):  # which has been told; it may be reached again
                    return self._read(peer, moment, have)
            if late or ended or max(moments, default=moment) > moment:
                return None
            if moments and max(moments) != newest:
                deadline, newest = time.monotonic() + timeout, max(moments)
            alive()
            time.sleep(self.store.poll_seconds)

    def newest(self, peer: int, *, since: Moment, have: Moment | None) -> Snapshot | None:
        """The newest fit snapshot of a peer from `since` or later, and later than `have`; None if there is none."""
        for moment in sorted(self._moments(peer), reverse=True):
            if moment < since or (have is not None and moment <= have):
                break
            with contextlib.suppress(StoreError):
                if (snapshot := self._read(peer, moment, have)) is not None:
                    return snapshot
        return None

    def finish(self, moment: Moment) -> None:
        """Tells the others that this group publishes nothing from this moment on. Raises ExchangeError."""
        try:
            self.store.put(f"{_folder(self.group)}/{_FINISHED}", json.dumps({"moment": list(moment)}).encode())
        except StoreError as error:
            raise ExchangeError(str(error)) from None

    def finished(self, peer: int) -> bool:
        """Whether a peer has said that it publishes no more."""
        try:
            return self.store.get(f"{_folder(peer)}/{_FINISHED}") is not None
        except StoreError:
            return False

    def past(self, peer: int, moment: Moment) -> bool:
        """Whether a peer will not publish at this moment any more: it is past it, or has ended."""
        return self.finished(peer) or max(self._moments(peer), default=moment) > moment

    def _read(self, peer: int, moment: Moment, have: Moment | None) -> Snapshot | None:
        """A snapshot and what it continues back to `have`; None, with a warning, if any of it is unfit.

        Raises StoreError, with a warning, if any of it cannot be read now.
        """
        parts: list[Changes] = []
        known = have and (have, self._read_last.get(peer))
        at, digest, newest, size = moment, "", "", 0
        try:
            while True:
                link, body = self._link_and_body(peer, at)
                if parts and link.digest != digest:
                    raise Unfit(f"it is not the one that {moment} continues")
                parts.append(unpack(body, link, self.shapes))
                size += len(body)
                newest = link.digest if len(parts) == 1 else newest
                if link.base is None or link.base == known:
                    break
                at, digest = link.base
        except Unfit as error:
            self._warn(f"refused snapshot {self.store.address}/{_manifest(peer, at)} of group {peer}: {error}")
            return None
        except StoreError as error:
            self._warn(f"cannot read a snapshot of group {peer}: {error}")
            raise
        self._read_last[peer] = newest
        return Snapshot(peer, moment, parts[::-1], size)

    def _link_and_body(self, peer: int, moment: Moment) -> tuple[Link, bytes]:
        link = self._link(peer, moment)
        body = self.store.get(_body(link))
        if body is None:
            # Published again just now?
            link = self._link(peer, moment)
            body = self.store.get(_body(link))
        if body is None:
            raise Unfit("its body is missing")
        return link, body

    def _link(self, peer: int, moment: Moment) -> Link:
        content = self.store.get(_manifest(peer, moment))
        if content is None:
            raise Unfit("its manifest is missing")
        return read_manifest(content, peer, moment, self.fingerprint)

    def _moments(self, group: int) -> list[Moment]:
        """The moments of a group's snapshots that are there."""
        try:
            names = self.store.names(_folder(group))
        except StoreError as error:
            self._warn(f"cannot look for snapshots of group {group}: {error}")
            return []
        return [moment for name in names if (moment := _moment_of(name)) is not None]

    def _clean(self) -> None:
        """Removes own snapshots that are neither among the newest so far nor continued by one that stays."""
        assert self._last is not None
        # Later ones are of a process before this one, which peers may still want.
        past = sorted(moment for moment in self._links if moment <= self._last.moment)
        stays = set(past[-self.keep :]) | {moment for moment in self._links if moment > self._last.moment}
        for moment in sorted(stays):
            link: Link | None = self._links[moment]
            while link and link.base and link.base[0] not in stays:
                stays.add(link.base[0])
                link = self._links.get(link.base[0])
        for moment in set(self._links) - stays:
            # The manifest first: without it the snapshot is not there for a reader.
            self.store.remove(_manifest(self.group, moment))
            self.store.remove(_body(self._links.pop(moment)))

    def _clear_up(self) -> None:
        """Takes up the snapshots of an earlier process of this group, and removes what it left half done."""
        try:
            names = set(self.store.names(_folder(self.group)))
        except StoreError:
            return
        for moment in filter(None, map(_moment_of, names)):
            try:
                self._links[moment] = self._link(self.group, moment)
            except Unfit:
                continue
            except StoreError:
                return  # whose body it names is not known
        bodies = {_body(link).rpartition("/")[2] for link in self._links.values()}
        for name in names - bodies:
            if name.startswith(".") or name.endswith(".safetensors"):
                self.store.remove(f"{_folder(self.group)}/{name}")

    def _warn(self, text: str) -> None:
        now = time.monotonic()
        if now - self._warned.get(text, -_SECONDS_BETWEEN_WARNINGS) >= _SECONDS_BETWEEN_WARNINGS:
            self._warned[text] = now
            logging.getLogger("ctr").warning("%s", text)


def _folder(group: int) -> str:
    return f"group-{group}"


def _body(link: Link) -> str:
    return f"{_folder(link.group)}/{link.moment.phase}-{link.moment.step:09d}-{link.digest[:12]}.safetensors"


def _manifest(group: int, moment: Moment) -> str:
    return f"{_folder(group)}/{moment.phase}-{moment.step:09d}.json"


def _moment_of(name: str) -> Moment | None:
    """The moment that a manifest's name says; None for any other file."""
    phase, sign, step = name.removesuffix(".json").partition("-")
    known = name.endswith(".json") and sign and phase.isdigit() and step.isdigit()
    return Moment(int(phase), int(step)) if known else None
