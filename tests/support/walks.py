"""List the files of the package that one call runs through: `python -m tests.support.walks` prints them.

tinyworld is left out: like a plug-in, it only provides pictures and models. The code that runs its image
encoder belongs to the package and counts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import myvlm
from myvlm import MyVLM, Reply
from myvlm.tinyworld import FewShot, few_shot
from myvlm.tinyworld.fewshot import pictures

PACKAGE = Path(myvlm.__file__).parent
OUTSIDER = "tinyworld"


@dataclass
class Walk:
    """The path of one call through the package.

    Attributes:
        files: each file in which a function ran, with its first function, in order of their first call.
        hops: pairs of files of which one called the other, directly or through other packages.
    """

    files: dict[str, str] = field(default_factory=dict)
    hops: set[tuple[str, str]] = field(default_factory=set)

    def __str__(self) -> str:
        named = [f"  {file:32} {function}" for file, function in self.files.items()]
        return "\n".join([f"{len(self.files)} files, {len(self.hops)} hops", *named])


def walk_of(call: Callable[[], object]) -> Walk:
    """The files that a call runs through; imports do not count."""
    walk = Walk()
    known: dict[CodeType, str | None] = {}

    def file_of(code: CodeType) -> str | None:
        if code not in known:
            path = Path(code.co_filename)
            own = path.is_relative_to(PACKAGE) and code.co_name != "<module>"
            file = path.relative_to(PACKAGE).as_posix() if own else ""
            known[code] = None if not own or file.startswith(f"{OUTSIDER}/") else file
        return known[code]

    def note(frame: FrameType, event: str, _: Any) -> None:
        file = file_of(frame.f_code) if event == "call" else None
        if file is None:
            return
        walk.files.setdefault(file, frame.f_code.co_qualname)
        caller = frame.f_back
        while caller is not None and (before := file_of(caller.f_code)) is None:
            caller = caller.f_back
        if caller is not None and before != file:
            walk.hops.add((str(before), file))

    profiled = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(profiled)
    return walk


def walks(vlm: MyVLM, kit: FewShot) -> dict[str, Walk]:
    """The walks of a first `learn`, and of a `caption` of an unseen picture of the concept."""
    photos, [unseen] = kit.photos(), pictures(kit.present[:1])
    settings = {"steps": 3}
    learn = walk_of(
        lambda: vlm.learn(kit.identifier, photos, category=kit.category, settings=settings, progress=False)
    )
    replies: list[Reply] = []
    caption = walk_of(lambda: replies.append(vlm.caption(unseen)))
    assert replies[0].seen == (kit.identifier,)  # otherwise its rows were not used
    return {"learn": learn, "caption": caption}


if __name__ == "__main__":
    model = MyVLM.from_pretrained(*(sys.argv[1:] or ["tinyworld/llava"]))
    for name, walk in walks(model, few_shot(0)).items():
        sys.stdout.write(f"{name}: {walk}\n")
