"""The demonstration as one self-contained HTML page, with styles and pictures inline.

Every inserted text is escaped by `html.escape`.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from pathlib import Path
from string import Template

from PIL import Image

from myvlm.display.page import highlighted
from myvlm.display.pictures import data_url
from myvlm.heads import Detection
from myvlm.tinyworld.demo.results import Demo, TriedPicture

SHOWN = {"present": 6, "look-alike": 4, "other": 2}
"""Number of trials of each kind that the page shows; the figures count all of them."""


def page(demo: Demo) -> str:
    """Return the whole page."""
    template = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    figures = demo.figures
    return template.substitute(
        identifier=html.escape(demo.identifier),
        category=html.escape(demo.category),
        article="an" if demo.category[0] in "aeiou" else "a",
        seed=demo.seed,
        said=figures.said,
        said_wrongly=figures.said_wrongly,
        plain_identical=figures.plain_identical,
        learn_seconds=f"{figures.learn_seconds:.1f} s",
        concept_kib=f"{figures.concept_bytes / 1024:.0f} KiB",
        photos=_join(_photo(demo, number) for number in range(len(demo.photos))),
        present=_join(_trial(demo, trial) for trial in _first(demo, "present")),
        absent=_join(_trial(demo, trial) for kind in ("look-alike", "other") for trial in _first(demo, kind)),
        asked=_picture(demo.asked, f"the picture of the questions; it shows {demo.identifier}"),
        answers=_join(_answers(demo)),
    )


def _first(demo: Demo, kind: str) -> list[TriedPicture]:
    """Some trials of a kind, failures first: a page that hid them would prove nothing."""
    own = [trial for trial in demo.trials if trial.kind == kind]
    return sorted(own, key=lambda trial: trial.says(demo.identifier) == (kind == "present"))[: SHOWN[kind]]


def _photo(demo: Demo, number: int) -> str:
    captions = list(dict.fromkeys(demo.captions[number]))
    items = _join(f"<li>{highlighted(text, demo.identifier)}</li>" for text in captions)
    picture = _picture(demo.photos[number], f"training photo {number + 1} of {demo.identifier}")
    return f'<article class="card">{picture}<ul class="captions">{items}</ul></article>'


def _trial(demo: Demo, trial: TriedPicture) -> str:
    name = demo.identifier
    pictures = _picture(trial.picture, _described(trial, name), trial.detection)
    if trial.overlay:
        pictures += _picture(trial.overlay, f"attention of the model as it generates {name}")
    same = ' <span class="same">the same tokens</span>' if trial.identical else ""
    return f"""<article class="card">
<div class="pictures">{pictures}</div>
<dl>
<dt>plain</dt><dd>{highlighted(trial.plain.text, name)}</dd>
<dt>with {html.escape(name)}</dt><dd>{highlighted(trial.personal.text, name)}{same}</dd>
</dl>
{_score(trial)}
</article>"""


def _score(trial: TriedPicture) -> str:
    percent = round(100 * trial.detection.probability)
    said = "detected" if trial.detection.present else "not detected"
    wrong = trial.detection.present != (trial.kind == "present")
    kind = {"present": "", "look-alike": " · shows a look-alike", "other": " · shows nothing similar"}
    return (
        f'<p class="score{" wrong" if wrong else ""}"><span class="meter" aria-hidden="true">'
        f'<span style="width:{percent}%"></span></span> head {percent} %, {said}{kind[trial.kind]}</p>'
    )


def _described(trial: TriedPicture, name: str) -> str:
    truth = {"present": "shows", "look-alike": "shows a look-alike of", "other": "does not show"}[trial.kind]
    return f"unseen picture that {truth} {name}"


def _answers(demo: Demo) -> Iterable[str]:
    for one in demo.answers:
        yield (
            f"<dt>{highlighted(one.question, demo.identifier)}</dt>"
            f"<dd>{highlighted(one.answer, demo.identifier)}"
            f' <span class="truth">correct: {html.escape(one.truth)}</span></dd>'
        )


def _picture(image: Image.Image, alt: str, detection: Detection | None = None) -> str:
    """A picture with the head's box over it, in percent of the picture's size so that it scales along."""
    frame = ""
    if detection and detection.present and detection.box:
        left, top, right, bottom = detection.box
        place = (
            f"left:{100 * left / image.width:.1f}%;top:{100 * top / image.height:.1f}%;"
            f"width:{100 * (right - left) / image.width:.1f}%;"
            f"height:{100 * (bottom - top) / image.height:.1f}%"
        )
        frame = f'<span class="box" style="{place}"></span>'
    enlarged = image.resize((image.width * 3, image.height * 3), Image.Resampling.LANCZOS)
    return f'<span class="picture"><img src="{data_url(enlarged)}" alt="{html.escape(alt)}">{frame}</span>'


def _join(parts: Iterable[str]) -> str:
    return "\n".join(parts)
