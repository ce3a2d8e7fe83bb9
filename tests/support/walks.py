"""How many files of the package one call crosses: `python -m tests.support.walks` prints them.

tinyworld is left out: it is the outsider whose pictures and models are used, found by its entry point. What
runs its image encoder is the package's own code and counts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import myvlm
from myvlm import MyVLM, Reply
from myvlm.tinyworld import FewShot, few_shot
from myvlm.tinyworld.fewshot import pictures

PACKAGE = Path(myvlm.__file__).parent
OUTSIDER = "tinyworld"


def files_crossed(call: Callable[[], object]) -> list[str]:
    """The files of the package in which a function ran during the call; importing one is no run."""
    codes: set[tuple[str, str]] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            codes.add((frame.f_code.co_filename, frame.f_code.co_name))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)
    files = {Path(file) for file, name in codes if name != "<module>"}
    inside = {file.relative_to(PACKAGE) for file in files if file.is_relative_to(PACKAGE)}
    return sorted(file.as_posix() for file in inside if file.parts[0] != OUTSIDER)


def walks(vlm: MyVLM, kit: FewShot) -> dict[str, list[str]]:
    """The files that a first `learn` crosses, and those of a `caption` of an unseen picture that shows it."""
    photos, [unseen] = kit.photos(), pictures(kit.present[:1])
    settings = {"steps": 3}
    learn = files_crossed(
        lambda: vlm.learn(kit.identifier, photos, category=kit.category, settings=settings, progress=False)
    )
    replies: list[Reply] = []
    caption = files_crossed(lambda: replies.append(vlm.caption(unseen)))
    assert replies[0].seen == (kit.identifier,)  # else its rows were on no walk
    return {"learn": learn, "caption": caption}


if __name__ == "__main__":
    model = MyVLM.from_pretrained(*(sys.argv[1:] or ["tinyworld/llava"]))
    for name, files in walks(model, few_shot(0)).items():
        sys.stdout.write("\n  ".join([f"{name}: {len(files)} files", *files]) + "\n")
