"""A MODEL as a folder that a server may look at: a name in the registry becomes one that follows its alias."""

import re
import sys
import tempfile
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from ctr.runs import find_model
from features.errors import BadInput, WorkFailed
from serving.version_folders import is_version_folder

_REGISTERED = re.compile(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))")


@contextmanager
def followed(model: str | None, seconds: float) -> Generator[Path | None]:
    """The folder to serve: of a run or SavedModel itself, or a folder of versions as it is.

    Of `models:/NAME@ALIAS` it is a temporary folder with a link to the version's files, named after its number. It is
    looked up again every so many seconds in a thread: here, so that server processes know nothing of the registry.
    Raises BadInput if there is no such model.
    """
    if model is None:
        yield None
    elif registered := _REGISTERED.fullmatch(model):
        from ctr.registry import fetch_model, version_of

        name, alias, number = registered.groups()

        def current() -> str:
            return number or version_of(name, alias)

        with tempfile.TemporaryDirectory(prefix="ctr-serve-") as folder:
            links, stop = Path(folder), threading.Event()
            fetch = Fetcher(links, name, fetch_model)
            fetch.link(current())
            thread = threading.Thread(target=_follow, args=(fetch, current, model, seconds, stop), daemon=True)
            thread.start()
            try:
                yield links
            finally:
                stop.set()
                thread.join(5)
    elif is_version_folder(Path(model)):
        yield Path(model)
    else:
        yield find_model(model)


class Fetcher:
    """Puts links to the files of registered versions into a folder."""

    def __init__(self, links: Path, name: str, fetch: Callable[[str], Path]):
        self._links, self._name, self._fetch = links, name, fetch
        self._linked = ""

    def link(self, version: str) -> None:
        """Makes this version the newest in the folder: later ones, which the alias left by going back, go."""
        if version == self._linked:
            return
        link = self._links / version
        if not link.is_symlink():
            link.symlink_to(self._fetch(f"models:/{self._name}/{version}").absolute(), target_is_directory=True)
        for other in self._links.iterdir():
            if int(other.name) > int(version):
                other.unlink()
        self._linked = version


def _follow(fetch: Fetcher, current: Callable[[], str], model: str, seconds: float, stop: threading.Event) -> None:
    lost = False
    while not stop.wait(seconds):
        try:
            fetch.link(current())
        except (BadInput, WorkFailed, OSError) as error:
            if not lost:
                sys.stderr.write(f"warning: {model} cannot be looked up, what is served stays: {error}\n")
            lost = True
        else:
            if lost:
                sys.stderr.write(f"{model} can be looked up again\n")
            lost = False
