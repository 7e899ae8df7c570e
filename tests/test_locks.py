"""A lock ends with its holder, however that ends."""

import subprocess
import sys
from pathlib import Path

from features.locks import try_lock


def test_second_holder_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    first = try_lock(tmp_path / "lock")
    assert first is not None
    assert try_lock(tmp_path / "lock") is None
    first.close()
    second = try_lock(tmp_path / "lock")
    assert second is not None
    second.close()


def test_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    script = "import sys, time; from pathlib import Path; from features.locks import try_lock\n"
    script += "held = try_lock(Path('lock')); print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert try_lock(tmp_path / "lock") is None
    holder.kill()
    taken = try_lock(tmp_path / "lock", wait=10)
    assert taken is not None
    taken.close()
    holder.communicate()
