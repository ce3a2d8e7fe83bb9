"""Compare captions, answers and boxes with the ground truth of a scene."""

from __future__ import annotations

import re
from collections.abc import Collection

from myvlm.boxes import Box
from myvlm.tinyworld.language import GRID, WEATHER_WORDS
from myvlm.tinyworld.world.scenes import CATEGORIES, COLOURS, PATTERNS, SIZE, Appearance, Scene, Thing

_FILLERS = frozenset("a an the on in at by day with".split())
_WEATHER_OF = {word: weather for weather, words in WEATHER_WORDS.items() for word in words}


def words(text: str) -> list[str]:
    """Return the lower-case words of a text without signs, and words for weather in one form.

    >>> words("A red mug, on a rainy day.")
    ['a', 'red', 'mug', 'on', 'a', 'rain', 'day']
    """
    return [_WEATHER_OF.get(word, word) for word in re.findall(r"[\w-]+", text.lower())]


def same_answer(given: str, truth: str) -> bool:
    """Return whether two short answers say the same, apart from word order and small words.

    >>> same_answer("a green striped mug.", "a striped green mug")
    True
    """
    return set(words(given)) - _FILLERS == set(words(truth)) - _FILLERS


def descriptions(text: str) -> list[tuple[str, set[str]]]:
    """Return the objects that a text describes, each as its category and the words for its colour and
    pattern.

    >>> descriptions("a striped red mug beside a woman in plain blue")[0] == ("mug", {"striped", "red"})
    True
    """
    said, found = words(text), []
    attributes = {*COLOURS, *PATTERNS}
    for i, word in enumerate(said):
        if word in CATEGORIES:
            after = said[i + 2 : i + 4] if said[i + 1 : i + 2] == ["in"] else []
            about = [w for w in after if w in attributes] or [
                w for w in said[max(0, i - 2) : i] if w in attributes
            ]
            found.append((word, set(about)))
    return found


def names_thing(text: str, thing: Thing) -> tuple[bool, bool, bool]:
    """Return whether a text names the object's category, and with that category its colour and pattern."""
    said = [about for category, about in descriptions(text) if category == thing.category]
    return bool(said), any(thing.look.colour in s for s in said), any(thing.look.pattern in s for s in said)


def read_box(text: str) -> Box | None:
    """Return the box on the grid of 0 to 100 in a text, in pixels; None if there is none.

    >>> read_box("{ <0> <26> <50> <100> }")
    (0.0, 24.96, 48.0, 96.0)
    """
    marks = [int(m) for m in re.findall(r"<\s*(\d+)\s*>", text)]
    if len(marks) != 4 or max(marks) > 2 * GRID:
        return None
    left, top, right, bottom = (m * SIZE / 100 for m in marks)
    return left, top, right, bottom


def context_right(text: str, scene: Scene, concept: Appearance) -> tuple[int, int]:
    """Return how many facts about the concept's surroundings a text states, and how many there are.

    The facts are the place and, for the object beside the concept, its category and the colour with that
    category.
    """
    thing = scene.find(concept)
    beside = scene.neighbour(thing) if thing else None
    right = [scene.place in words(text)]
    if beside:
        right += names_thing(text, beside)[:2]
    return sum(right), len(right)


def leaks(text: str, scene: Scene, context: Collection[str]) -> bool:
    """Return whether a text names something from the training photos that is not in the scene."""
    return bool(set(words(text)) & set(context) - scene_words(scene))


def scene_words(scene: Scene) -> set[str]:
    """Return what a caption may correctly name in a scene: place, weather, categories."""
    return {scene.place, scene.weather, *(t.category for t in scene.things)}
