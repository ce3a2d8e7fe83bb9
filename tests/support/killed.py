"""Save a concept repeatedly as a program, killed one step later each time, and report what is left.

The steps are the interpreter's audit events of the file system (open, rename …). For each step a forked child
gets `kill -9` just before it. What is left must load as the old concept or as the new one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from myvlm.concepts.concept import Concept
from myvlm.errors import MissingFileError
from tests.support.taught import by_hand

STEPS = ("open", "os.", "shutil.")


def killed_at(step: int, concept: Concept, place: Path) -> bool:
    """Save in a child that is killed before its n-th step; return whether there was such a step."""
    child = os.fork()
    if child == 0:
        left = [step]

        def count(event: str, given: tuple[Any, ...]) -> None:
            if event.startswith(STEPS) and any(str(place.parent) in str(one) for one in given):
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        concept.save(place)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def left_in(place: Path) -> str | None:
    try:
        return Concept.load(place).category
    except MissingFileError:
        return None


def main(folder: Path, every: int) -> dict[str, Any]:
    """What was left after each kill, with and without an older concept in the folder."""
    old, new = by_hand(), by_hand()
    old.category, new.category = "old", "new"
    found: dict[str, list[str | None]] = {"old": [], "nothing": []}
    unclean: list[list[str]] = []
    for there in found:
        step = 1
        while True:
            place = folder / there / f"{step}" / "sks-mug"
            if there == "old":
                old.save(place)
                (place / "notes.txt").write_text("mine")
            if not killed_at(step, new, place):
                break
            found[there].append(left_in(place))
            if there == "old":
                assert (place / "notes.txt").read_text() == "mine"
            new.save(place)
            assert left_in(place) == "new"
            beside = os.listdir(place.parent)
            unclean += [beside] if beside != ["sks-mug"] else []
            step += every
    return {"left": found, "unclean": unclean}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
