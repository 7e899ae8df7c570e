"""The versions of a model that are served: loaded beside one another, taken away when nobody uses them any more."""

import gc
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from serving.refusal import Refused
from serving.version_folders import Identity, find_versions

Model = TypeVar("Model")

START, LOADING, AVAILABLE, UNLOADING, END = "START", "LOADING", "AVAILABLE", "UNLOADING", "END"
# So many versions that are gone stay in the status.
_REMEMBERED = 20


@dataclass(eq=False)
class Version(Generic[Model]):
    """One version: where it is, and what has become of it in TensorFlow Serving's words.

    Attributes:
        state: START, LOADING, AVAILABLE, UNLOADING or END.
        error_code: OK, or why it could not be loaded.
        model: while it is AVAILABLE or UNLOADING.
        uses: requests that have it now.
        load_seconds: how long it took to load.
    """

    number: int
    folder: Path
    identity: Identity
    state: str = START
    error_code: str = "OK"
    error_message: str = ""
    model: Model | None = None
    uses: int = 0
    load_seconds: float = 0.0

    @property
    def loaded(self) -> Model:
        """The model; for those who use this version."""
        assert self.model is not None
        return self.model


class Versions(Generic[Model]):
    """What is served of one folder under one name.

    `poll` brings what is loaded in line with the folder, and is called from one thread at a time; requests, in another
    thread, have a version for as long as they are in the block of `using`.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        load: Callable[[Path], Model],
        code_of: Callable[[BaseException], str],
        keep: int = 1,
        labels: Mapping[str, int] | None = None,
    ):
        """`keep`: so many of the newest versions are available at once, and each that one of `labels` names."""
        self.folder, self.name, self.labels = folder, name, dict(labels or {})
        self._load, self._code_of, self._keep = load, code_of, keep
        self._lock = threading.Condition()
        self._known: list[Version[Model]] = []
        self._available: dict[int, Version[Model]] = {}
        self._seen: dict[int, tuple[Path, Identity]] | None = None
        self._stop = threading.Event()

    def poll(self) -> None:
        """Loads what is new in the folder, then takes away what is no longer wanted.

        What changed since the last look is left for the next one: it may be half copied. A folder without anything that
        can be loaded changes nothing.
        """
        found = find_versions(self.folder)
        settled = {number for number, what in found.items() if self._seen is None or self._seen.get(number) == what}
        self._seen = found
        wanted: list[Version[Model]] = []
        newest = 0
        for number in sorted(found, reverse=True):
            if newest < self._keep or number in self.labels.values():
                version = self._available.get(number)
                if number in settled:
                    version = self._at(number, *found[number]) or version
                if version:
                    wanted.append(version)
                    newest += 1
        with self._lock:
            # One that could not be loaded is shown for as long as it lies there.
            self._known = [v for v in self._known if v.error_code == "OK" or v.number in found]
        if wanted:
            retired = [version for version in self._known if version.model is not None and version not in wanted]
            self._unload(retired)

    def watch(self, seconds: float) -> None:
        """Polls every so many seconds in a thread, until `stop`."""

        def run() -> None:
            while not self._stop.wait(seconds):
                try:
                    self.poll()
                except Exception as error:  # whatever it is, what is served stays, and the next look may be better
                    sys.stderr.write(f"warning: {self.folder} could not be looked at: {error}\n")

        threading.Thread(target=run, name=f"versions of {self.name}", daemon=True).start()

    def stop(self) -> None:
        """Ends `watch`."""
        self._stop.set()

    @contextmanager
    def using(self, number: int | None = None, label: str | None = None) -> Generator[Version[Model]]:
        """A version that stays loaded in the block: the one of that number or label, or else the newest.

        Raises Refused as TensorFlow Serving does if there is none.
        """
        with self._lock:
            version = self.find(number, label)
            version.uses += 1
        try:
            yield version
        finally:
            with self._lock:
                version.uses -= 1
                if version.state != AVAILABLE:
                    self._lock.notify_all()

    def find(self, number: int | None = None, label: str | None = None) -> Version[Model]:
        """The same, to look at."""
        if label is not None:
            number = self.number_of(label)
        available = self._available
        found = available.get(max(available, default=0) if number is None else number)
        if found is None:
            what = f"Latest({self.name})" if number is None else f"Specific({self.name}, {number})"
            raise Refused(404, f"Servable not found for request: {what}")
        return found

    def number_of(self, label: str) -> int:
        """The version that a label names. Raises Refused if there is no such label."""
        if label not in self.labels:
            raise Refused(400, f"Unrecognized servable version label: {label}")
        return self.labels[label]

    def states(self, number: int | None = None) -> list[Version[Model]]:
        """All versions that there are and were, or those of one number: newest first, available ones before others.

        Raises Refused if there is none.
        """
        with self._lock:
            found = [version for version in self._known if number in (None, version.number)]
        if not found:
            what = f"version {number} of model" if number is not None else "any versions of model"
            raise Refused(404, f"Could not find {what} {self.name}")
        return sorted(found, key=lambda version: (-version.number, version.state != AVAILABLE))

    @property
    def numbers(self) -> list[int]:
        """The versions that can answer, newest first."""
        return sorted(self._available, reverse=True)

    @property
    def ready(self) -> bool:
        """Whether any version can answer."""
        return bool(self._available)

    def _at(self, number: int, folder: Path, identity: Identity) -> Version[Model] | None:
        """The version with that very content, loaded if it has not been tried yet; None if it cannot be loaded."""
        for version in self._known:
            if (version.number, version.identity) == (number, identity) and version.state in (AVAILABLE, END):
                if version.state == AVAILABLE:
                    return version
                if version.error_code != "OK":
                    return None
        version = Version[Model](number, folder, identity, LOADING)
        with self._lock:
            # Of those of this number that are gone, this one takes the place.
            self._known = [known for known in self._known if known.number != number or known.state != END]
            self._known.append(version)
        began = time.monotonic()
        try:
            model = self._load(folder)
        except Exception as error:  # as many as there are ways to break a file
            with self._lock:
                version.state, version.error_code = END, self._code_of(error)
                version.error_message = " ".join(str(error).split())
            sys.stderr.write(f"warning: version {number} of {self.name} is not served: {version.error_message}\n")
            return None
        with self._lock:
            version.load_seconds = time.monotonic() - began
            version.model, version.state = model, AVAILABLE
            self._available = {**self._available, number: version}
        return version

    def _unload(self, retired: list[Version[Model]]) -> None:
        with self._lock:
            for version in retired:
                version.state = UNLOADING
            self._available = {n: version for n, version in self._available.items() if version not in retired}
            for version in retired:
                self._lock.wait_for(lambda: not version.uses)  # noqa: B023 - it is called before the next one
                version.model, version.state = None, END
            # A version that another of the same number has replaced is forgotten.
            gone = [
                v for v in self._known if v.state == END and v.error_code == "OK" and v.number not in self._available
            ]
            dropped = {v for v in self._known if v.state == END and v.error_code == "OK"} - set(gone[-_REMEMBERED:])
            self._known = [version for version in self._known if version not in dropped]
        if retired:
            # TensorFlow's objects refer to one another. Those of a model are some 12,000: it takes milliseconds.
            gc.collect()
