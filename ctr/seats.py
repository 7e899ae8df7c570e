"""Where the groups of a run train: on this machine, or on the nodes of a Ray cluster."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from ctr.cluster import Seats, seats_here, start_python
from features.engine import check_shared, open_engine


@contextmanager
def open_seats(
    engine: str, address: str | None, *, data: Path, run: Path, cores: int, say: Callable[[str], None]
) -> Generator[Seats]:
    """The seats of an engine (`features.engine.open_engine`), for workers with so many cores each.

    Raises BadInput if nodes do not share the folders of the data and the run, and the working folder, to which MLflow's
    store belongs.
    """
    with open_engine(engine, address) as opened:
        if engine == "local":
            yield seats_here(start_python)
            return
        from ctr.ray_groups import RayGroups

        opened.check_seen([data / "manifest.json"])
        there = next(folder for folder in run.absolute().parents if folder.exists())
        for folder in {Path.cwd(), there}:
            check_shared(opened, folder)
        with RayGroups(cores=cores, say=say) as seats:
            yield seats
