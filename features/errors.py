"""The two ways a command can end badly, each said in one line."""

import difflib
from collections.abc import Iterable


class BadInput(Exception):
    """What the user gave cannot be used (exit code 2). The message: what was received, where, what to do."""


class WorkFailed(Exception):
    """The input was fine but the work did not succeed (exit code 1)."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of an error message: the known name nearest to `word`, or all of them when none is near."""
    names = list(known)
    for name in names:
        if name.casefold() == word.casefold():
            return f"did you mean '{name}'?"
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if near:
        return f"did you mean '{near[0]}'?"
    return "known: " + ", ".join(names)
