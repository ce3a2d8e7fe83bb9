"""Check that a caption uses a name for the right object of a scene, by what it says of and next to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from myvlm.tinyworld.truth import words
from myvlm.tinyworld.world.scenes import (
    ACCENT_COLOURS,
    ACCENT_SHAPES,
    CATEGORIES,
    COLOURS,
    PATTERNS,
    Appearance,
    Row,
    Scene,
    Thing,
)

_ATTRIBUTES = frozenset({*COLOURS, *PATTERNS, *ACCENT_COLOURS, *ACCENT_SHAPES})
_RELATIONS = {"beside": "beside", "next": "beside", "behind": "behind", "front": "before"}


@dataclass(frozen=True)
class Mention:
    """One object that a caption mentions.

    Attributes:
        word: a category or a name.
        attributes: colours, patterns and accent that the caption gives it.
        row: the row that the caption puts it in; None if the caption distinguishes no rows.
        beside: indices of the mentions that the caption puts beside it.
    """

    word: str
    attributes: frozenset[str]
    row: Row | None
    beside: tuple[int, ...]


@dataclass
class _PartialMention:
    """A mention while the caption is parsed."""

    word: str
    attributes: set[str] = field(default_factory=set)
    relation: str = ""  # to the previous mention


def mentions(text: str, names: Mapping[str, Appearance]) -> list[Mention]:
    """Parse a caption into the objects that it mentions, in order.

    Args:
        text: a caption in tinyworld's language.
        names: words that can stand in the place of a noun phrase.

    >>> look = Appearance("mug", "red", "plain")
    >>> [(m.word, m.row, m.beside) for m in mentions("sks beside a red car behind a dog .", {"sks": look})]
    [('sks', 'back', (1,)), ('car', 'back', (0,)), ('dog', 'front', ())]
    """
    found: list[_PartialMention] = []
    before: set[str] = set()  # attributes that wait for their noun
    relation, after = "", False
    for word in words(text):
        if word in CATEGORIES or word in names:
            found.append(_PartialMention(word, before, relation))
            before, relation, after = set(), "", False
        elif word in _RELATIONS:
            relation, after = _RELATIONS[word], False
        elif word in ("in", "with") and found and not relation:
            after = True  # "a woman in plain red", "a mug with a gold star"
        elif word in _ATTRIBUTES:
            (found[-1].attributes if after and not relation else before).add(word)
    return _with_rows(found)


def _with_rows(found: list[_PartialMention]) -> list[Mention]:
    starts = [i for i, one in enumerate(found) if i == 0 or one.relation in ("behind", "before")]
    rows: list[Row | None] = [None] * len(found)
    if len(starts) == 2:
        first: Row = "back" if found[starts[1]].relation == "behind" else "front"
        other: Row = "front" if first == "back" else "back"
        rows = [first if i < starts[1] else other for i in range(len(found))]
    groups = [max((s for s in starts if s <= i), default=0) for i in range(len(found))]
    return [
        Mention(
            one.word,
            frozenset(one.attributes),
            rows[i],
            tuple(j for j in range(len(found)) if j != i and groups[j] == groups[i]),
        )
        for i, one in enumerate(found)
    ]


def said_of_it(text: str, name: str, scene: Scene, names: Mapping[str, Appearance]) -> bool:
    """Return whether a caption contains a name, and every time uses it for the object that has the name.

    What the caption says of the name must be true of the object: attributes, row, neighbours and, as captions
    go from left to right, the side they are on. The object must not be described elsewhere as if it were
    another one. Neighbours need not be described well: the category, or colour and pattern, are enough.

    Args:
        text: a caption in tinyworld's language that contains the name.
        name: the name of an object in the scene.
        scene: the ground truth.
        names: all names that may occur, and the appearances that have them.

    >>> from random import Random
    >>> from myvlm.tinyworld.world.scenes import random_scene
    >>> mug, dog = Appearance("mug", "red", "plain"), Appearance("dog", "blue", "dotted")
    >>> scene = random_scene(Random(0), looks=[mug, dog], count=2)
    >>> [thing.row for thing in scene.things]
    ['front', 'front']
    >>> said_of_it("sks next to a dotted blue dog .", "sks", scene, {"sks": mug})
    True
    >>> said_of_it("sks next to a plain red mug .", "sks", scene, {"sks": mug})
    False
    >>> said_of_it("a dotted blue dog next to sks .", "sks", scene, {"sks": mug})
    False
    """
    look = names[name]
    thing = scene.find(look)
    if thing is None:
        raise ValueError(f"{name} is not in the scene")
    said = mentions(text, names)
    own = [number for number, mention in enumerate(said) if mention.word == name]
    alike = [
        t
        for t in scene.things
        if t is not thing and _category_and_colour(t.look) == _category_and_colour(look)
    ]
    described_again = any(m.word == look.category and look.colour in m.attributes for m in said) and not alike
    return (
        bool(own)
        and not described_again
        and all(_fits_place(number, thing, scene, said, names) for number in own)
    )


def told_apart(text: str, name: str, scene: Scene, names: Mapping[str, Appearance]) -> bool:
    """Return whether a caption uses a name for the right object, as `said_of_it` checks, and mentions another
    object by the category of the named one.

    A caption that leaves out everything else could not be wrong.

    >>> from random import Random
    >>> from myvlm.tinyworld.world.scenes import random_scene
    >>> mug, other = Appearance("mug", "red", "plain"), Appearance("mug", "blue", "plain")
    >>> scene = random_scene(Random(0), looks=[mug, other], count=2)
    >>> said = ["sks next to a blue mug .", "sks .", "a blue mug next to sks .", "sks next to sks ."]
    >>> [told_apart(text, "sks", scene, {"sks": mug}) for text in said]
    [True, False, False, False]
    """
    spoken_of = any(mention.word == names[name].category for mention in mentions(text, names))
    return spoken_of and said_of_it(text, name, scene, names)


def _fits_place(
    place: int, thing: Thing, scene: Scene, said: list[Mention], names: Mapping[str, Appearance]
) -> bool:
    mention = said[place]
    if not mention.attributes <= _attributes(thing.look):
        return False
    if mention.row is not None and mention.row != thing.row:
        return False
    neighbour = scene.neighbour(thing)
    there, side = scene.in_row(thing.row), sum(number < place for number in mention.beside)
    if len(mention.beside) + 1 == len(there) and there[side] is not thing:
        return False
    return all(
        neighbour is not None and _fits(said[number], neighbour, scene, names) for number in mention.beside
    )


def _fits(mention: Mention, thing: Thing, scene: Scene, names: Mapping[str, Appearance]) -> bool:
    """Whether a mention may be of an object."""
    if mention.word in names:
        look = names[mention.word]
        # The name of an absent object says no more than its category.
        return look == thing.look or (scene.find(look) is None and look.category == thing.category)
    described = {thing.look.colour, thing.look.pattern}
    return mention.word == thing.category or described <= mention.attributes


def _attributes(look: Appearance) -> frozenset[str]:
    accent = {look.accent.colour, look.accent.shape} if look.accent else set()
    return frozenset({look.colour, look.pattern, *accent})


def _category_and_colour(look: Appearance) -> tuple[str, str]:
    return look.category, look.colour
