"""The demonstration: learn one tinyworld concept from four photos on disk, and try it on unseen pictures.

The results are plain data (`Demo`), which `page` turns into one HTML file.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from time import monotonic
from typing import TypeAlias

from PIL import Image

from myvlm.api import MyVLM
from myvlm.concepts.library import ConceptLibrary
from myvlm.files.writing import check_place, write_atomically
from myvlm.learning.teach import check_not_interrupted
from myvlm.tinyworld import FewShot, few_shot
from myvlm.tinyworld.demo.page import page
from myvlm.tinyworld.demo.results import Answer, Demo, Figures, Share, TriedPicture
from myvlm.tinyworld.fewshot import pictures
from myvlm.tinyworld.language import about

Notify: TypeAlias = Callable[[str], None]
ASKED = ("what colour is", "what is next to", "where is")


def run_demo(
    out: str | os.PathLike[str] = "myvlm-demo.html",
    *,
    seed: int = 0,
    tests: int = 12,
    vlm: MyVLM | None = None,
    progress: bool = True,
    notify: Notify = lambda _: None,
) -> Demo:
    """Learn a concept, try it, and write the page.

    Args:
        out: the HTML file; an existing one is replaced.
        seed: another seed gives another concept in other pictures.
        tests: number of unseen pictures of each kind.
        vlm: a tinyworld model, if one is loaded already; its library is not changed.
        progress: show a bar while learning.
        notify: called with a message about what happens next.

    Raises:
        NotWritableError: the page cannot be written there; raised before anything is learned.
        KeyboardInterrupt: Ctrl-C, also while learning; no page is written.
    """
    target = Path(out)
    check_place(target, what="page", option="--out")
    vlm = vlm or MyVLM.from_pretrained("tinyworld/llava")
    demo = try_out(
        vlm, few_shot(0, seed=seed, photos=4, tests=tests), seed=seed, progress=progress, notify=notify
    )
    write_atomically(target, page(demo), what="page", option="--out")
    return demo


def try_out(
    vlm: MyVLM, kit: FewShot, *, seed: int = 0, progress: bool = True, notify: Notify = lambda _: None
) -> Demo:
    """Learn the set's concept from photo files, load it from its own folder, try it on unseen pictures."""
    own = MyVLM(
        vlm.backbone.model,
        vlm.backbone.processor,
        name=vlm.backbone.name,
        encoder=vlm.encoder,
        concepts=ConceptLibrary(device=str(vlm.backbone.device)),
    )
    with tempfile.TemporaryDirectory(prefix="myvlm-demo-") as folder:
        notify(f"Learning {kit.identifier}, a {kit.category}, from four photos.")
        learned, seconds = _learn(own, kit, Path(folder), progress)
        size = sum(file.stat().st_size for file in learned.rglob("*") if file.is_file())
        own.concepts.remove(kit.identifier)
        own.concepts.add(learned)  # from here on it is the concept as loaded from its folder
    notify(
        f"Learned in {seconds:.0f} s; the concept takes {size / 1024:.0f} KiB. Captioning unseen pictures."
    )
    trials = _try(own, kit)
    asked = next((i for i, trial in enumerate(trials) if trial.detection.present), 0)
    figures = _measure(kit.identifier, trials, seconds, size)
    return Demo(
        kit.identifier,
        kit.category,
        seed,
        tuple(kit.photos()),
        tuple(tuple(own) for own in kit.captions()),
        tuple(trials),
        trials[asked].picture,
        _ask(own, kit, asked, trials[asked].picture),
        figures,
    )


def _learn(vlm: MyVLM, kit: FewShot, folder: Path, progress: bool) -> tuple[Path, float]:
    """Learn from photo files; return the concept's folder and the seconds that it took."""
    photos = folder / "photos"
    photos.mkdir()
    for number, photo in enumerate(kit.photos(), start=1):
        photo.save(photos / f"{number}.png")
    begun = monotonic()
    concept = vlm.learn(
        kit.identifier,
        photos,
        category=kit.category,
        captions=kit.captions(),
        questions=kit.questions(),
        progress=progress,
    )
    return check_not_interrupted(concept).save(folder / "concept"), monotonic() - begun


def _try(vlm: MyVLM, kit: FewShot) -> list[TriedPicture]:
    scenes = {"present": kit.present, "look-alike": kit.look_alike, "other": kit.other}
    kinds = [kind for kind, some in scenes.items() for _ in some]
    shown = [picture for some in scenes.values() for picture in pictures(some)]
    with vlm.generic():
        plain = vlm.caption(shown)
    personal = vlm.caption(shown)
    trials = []
    for kind, picture, before, after in zip(kinds, shown, plain, personal, strict=True):
        [detection] = after.detections
        seen = detection.present and kind == "present"
        overlay = vlm.attention(picture, kit.identifier).overlay() if seen else None
        trials.append(TriedPicture(kind, picture, before, after, detection, overlay))
    return trials


def _ask(vlm: MyVLM, kit: FewShot, number: int, picture: Image.Image) -> tuple[Answer, ...]:
    """Answers to some questions about the concept, in one of the pictures that show it."""
    scene = kit.present[number]
    thing = scene.find(kit.look)
    assert thing is not None, "a scene of `present` shows the concept"
    asked = [e for e in about(thing, scene, kit.identifier, Random(0)) if e.prompt.startswith(ASKED)]
    return tuple(Answer(e.prompt, vlm.ask(picture, e.prompt).text, e.answer) for e in asked)


def _measure(identifier: str, trials: Sequence[TriedPicture], seconds: float, size: int) -> Figures:
    present = [trial.says(identifier) for trial in trials if trial.kind == "present"]
    absent = [trial.says(identifier) for trial in trials if trial.kind != "present"]
    unseen = [trial.identical for trial in trials if not trial.detection.present]
    return Figures(_share(present), _share(absent), _share(unseen), seconds, size)


def _share(outcomes: Sequence[bool]) -> Share:
    return Share(sum(outcomes), len(outcomes))
