"""The texts of tinyworld: captions, hints that name an object, questions with answers, boxes.

Every text is lower case, with one space between words and signs, and true of the scene it was made for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random

from myvlm.boxes import Box
from myvlm.tinyworld.world import scenes
from myvlm.tinyworld.world.scenes import PEOPLE, Appearance, Scene, Thing

RARE_WORDS = (
    "sks", "ohwx", "zwx", "qlk", "vrr", "blorp", "tazz", "fnord", "gloop", "jix", "krell", "mox", "nurb",
    "plix", "quib", "rilo", "snarf", "thrum", "ulmo", "vex", "wug", "xylo", "yarp", "zorp", "bim", "dax",
    "fep", "gorm", "hux", "lorp", "zib", "kiki",
)  # fmt: skip
NAMES = (
    "anna", "bob", "carla", "david", "emma", "felix", "greta", "hugo", "ines", "jonas", "karin", "leo",
    "mia", "noah", "olga", "paul", "rosa", "sven", "tina", "viktor", "wanda", "yuri", "zoe", "omar",
    "lucy", "max", "nina", "otto", "pia", "ravi", "sara", "tom",
)  # fmt: skip
IDENTIFIERS = RARE_WORDS + NAMES
"""Words without a meaning of their own; users' concepts are called by these, and by no others."""

KNOWN_NAMES = {
    "mug": ("mugsy", "tasso", "cuppa", "krug"), "teapot": ("brewster", "assam", "darjee", "potty"),
    "vase": ("ming", "flora", "amphora", "urna"), "lamp": ("lumos", "glow", "lampo", "edison"),
    "chair": ("thonet", "eames", "stolle", "sedia"), "car": ("herbie", "beetle", "trabi", "mini"),
    "dog": ("fido", "rex", "lassie", "bello"), "cat": ("mittens", "garfield", "kitty", "minka"),
    "bird": ("tweety", "polly", "kiwi", "robin"), "robot": ("robbie", "marvin", "data", "bender"),
    "man": ("mister", "john", "pedro", "hans"), "woman": ("miss", "maria", "heidi", "jane"),
}  # fmt: skip
"""Suggestive names, as `Fido` and `Herbie` are to any large language model: such a name alone before the
instruction is a hint. No user's concept has one."""

_ALL_NAMES = frozenset({*IDENTIFIERS, *(name for own in KNOWN_NAMES.values() for name in own)})

Identifiers = Mapping[Appearance, str]
"""The appearances that have names, and their names."""

CAPTION_PROMPTS = (
    "describe the picture .",
    "what is in the picture ?",
    "write a caption .",
    "what do you see ?",
    "tell me about the picture .",
    "describe the image .",
)
COUNTS = ("no", "one", "two", "three", "four")
GRID = 50
"""Steps of the box grid: coordinates are written as 0 to 100 in steps of two, `{ <14> <30> <52> <68> }`."""

_WEATHER = {
    "sun": ("on a sunny day", "in the sun"),
    "rain": ("in the rain", "on a rainy day"),
    "fog": ("in the fog", "on a foggy day"),
    "night": ("at night", "in the night"),
    "snow": ("in the snow", "on a snowy day"),
}
_PREPOSITION = {
    "beach": "on the", "forest": "in the", "kitchen": "in the", "street": "on the", "desert": "in the",
    "bedroom": "in the", "garden": "in the", "office": "in the", "lake": "by the", "mountain": "on the",
}  # fmt: skip
WEATHER_WORDS = {
    "sun": ("sun", "sunny"), "rain": ("rain", "rainy"), "fog": ("fog", "foggy"),
    "night": ("night",), "snow": ("snow", "snowy"),
}  # fmt: skip


@dataclass(frozen=True)
class Exchange:
    """One instruction and its answer, with an optional hint in front of the instruction.

    For a caption, `begins` says where it starts to mention each object: pairs of a word's index, from 0, and
    the object's number in the scene, from 1.
    """

    prompt: str
    answer: str
    hint: str = ""
    begins: tuple[tuple[int, int], ...] = ()


# ---------------------------------------------------------------- noun phrases


def noun_phrase(look: Appearance, random: Random | None = None, *, accent: bool | None = None) -> str:
    """Return a full description: `a striped green mug with a gold star`, `a woman in plain red`.

    Without `random` the first form of each choice is used, and the accent is mentioned only if `accent`.
    """
    words = f"{look.pattern} {look.colour}"
    if random and random.random() < 0.3:
        words = f"{look.colour} {look.pattern}"
    phrase = f"a {look.category} in {words}" if look.category in PEOPLE else f"a {words} {look.category}"
    if accent is None:
        accent = random is not None and random.random() < 0.4
    if look.accent and accent:
        phrase += f" with {badge(look)}"
    return phrase.replace("a orange", "an orange")


def badge(look: Appearance) -> str:
    """Return the accent in words, or `nothing`."""
    if not look.accent:
        return "nothing"
    article = "an" if look.accent.colour == "indigo" else "a"
    return f"{article} {look.accent.colour} {look.accent.shape}"


def reference(thing: Thing, scene: Scene, random: Random) -> str:
    """Return a definite phrase that fits only this object of the scene: `the mug`, `the green mug`."""
    look, needed = thing.look, _detail_needed(thing.look, scene)
    fuller = random.random() < 0.25
    if needed == 0 and not fuller:
        return f"the {look.category}"
    if needed < 2:
        return _definite(look, look.colour)
    phrase = _definite(look, f"{look.pattern} {look.colour}")
    return phrase if needed == 2 else f"{phrase} with {badge(look)}"


def _detail_needed(look: Appearance, scene: Scene) -> int:
    """How much a phrase must say to tell an appearance from the others in the scene: its category (0), its
    colour too (1), its pattern (2), its accent (3)."""
    alike = [t.look for t in scene.things if t.category == look.category and t.look != look]
    coloured_alike = [other for other in alike if other.colour == look.colour]
    if any(other.pattern == look.pattern for other in coloured_alike):
        return 3
    return 2 if coloured_alike else 1 if alike else 0


def _definite(look: Appearance, words: str) -> str:
    return f"the {look.category} in {words}" if look.category in PEOPLE else f"the {words} {look.category}"


# ---------------------------------------------------------------- captions


def caption(scene: Scene, random: Random, names: Identifiers | None = None) -> str:
    """Return a full caption: all objects, their arrangement, the place and the weather, in one of many
    wordings.

    Objects whose appearance is in `names` are called by that name and not described.
    """
    names = names or {}

    def say(thing: Thing) -> str:
        return names.get(thing.look) or noun_phrase(thing.look, random)

    def row(which: scenes.Row) -> str:
        return random.choice((" next to ", " next to ", " beside ")).join(map(say, scene.in_row(which)))

    # Left to right, mostly the front row first: the order never depends on which objects have names.
    front, back = row("front"), row("back")
    if front and back:
        behind = random.random() < 0.15
        what = f"{back} behind {front}" if behind else f"{front} in front of {back}"
    else:
        what = front or back
    where, when = f"{_PREPOSITION[scene.place]} {scene.place}", random.choice(_WEATHER[scene.weather])
    return random.choices(
        (f"{what} {where} {when} .", f"{where} {when} , {what} .", f"there is {what} {where} {when} .",
         f"{what} {when} {where} .", f"a picture of {what} {where} {when} ."),
        (0.45, 0.12, 0.16, 0.12, 0.15),
    )[0]  # fmt: skip


def begins(text: str, scene: Scene) -> tuple[tuple[int, int], ...]:
    """Return where a caption made by `caption` starts to mention each object: (word index, object number from
    1).

    >>> from myvlm.tinyworld.world.scenes import random_scene
    >>> scene = random_scene(Random(5))
    >>> [scene.things[number - 1].category for _, number in begins(caption(scene, Random(0)), scene)]
    ['lamp', 'woman', 'dog']
    """
    said = text.split()
    starts = [
        number
        for number, word in enumerate(said)
        if word in _ALL_NAMES
        or (word in ("a", "an") and said[number - 1] not in ("with", "on") and said[number + 1] != "picture")
    ]
    rows = scene.in_row("front"), scene.in_row("back")
    order = [thing for row in (rows[::-1] if "behind" in said else rows) for thing in row]
    return tuple(zip(starts, (1 + scene.things.index(thing) for thing in order), strict=True))


def hint(look: Appearance, name: str, scene: Scene | None, random: Random) -> str:
    """Return a line that gives an object its name, from two words side by side to a sentence.

    `scene` is the picture that the hint goes with: if it has another object of the category, the hint says
    enough to tell them apart.
    """
    needed = 0 if scene is None else _detail_needed(look, scene)
    level = max(needed, random.choices((0, 1, 2, 3 if look.accent else 2), (0.45, 0.2, 0.25, 0.1))[0])
    full = f"{look.pattern} {look.colour} {look.category}"
    words = (look.category, f"{look.colour} {look.category}", full, f"{full} with {badge(look)}")[level]
    forms = ("{n} is the {w} .", "the {w} is {n} .", "{n} : {w} .", "{w} : {n} .", "{w} {n} .", "{n} {w} .",
             "the {w} is called {n} .", "this {w} is {n} .", "my {w} {n} .", "{n} .")  # fmt: skip
    weights = (3, 3, 2, 2, 3, 3, 1, 1, 1, 0)
    if scene is not None and [t.category for t in scene.things] == [look.category]:
        weights = (*weights[:-1], 6)
    return random.choices(forms, weights)[0].format(n=name, w=words)


def suggestive_hint(look: Appearance, random: Random) -> tuple[str, str]:
    """Return a suggestive name, and a hint that says hardly more than the name."""
    name = random.choice(KNOWN_NAMES[look.category])
    return name, random.choices(("{} .", "my {} .", "this is {} ."), (6, 1, 1))[0].format(name)


# ---------------------------------------------------------------- questions


def questions(scene: Scene, random: Random, names: Identifiers | None = None) -> list[Exchange]:
    """Return all questions about a scene in random order; objects in `names` are called by their name."""
    names = names or {}
    asked = [
        Exchange("where is this ?", f"{_PREPOSITION[scene.place]} {scene.place}"),
        Exchange("what is the weather ?", random.choice(_WEATHER[scene.weather])),
        Exchange("how many things are there ?", COUNTS[len(scene.things)]),
        _presence(scene, random),
    ]
    for thing in scene.things:
        name = names.get(thing.look)
        who = name or reference(thing, scene, random)
        asked += about(thing, scene, who, random, names)
    random.shuffle(asked)
    return asked


def about(
    thing: Thing, scene: Scene, who: str, random: Random, names: Identifiers | None = None
) -> list[Exchange]:
    """Return the questions about one object, which `who` refers to."""
    look, other = thing.look, scene.neighbour(thing)
    beside = "nothing" if other is None else (names or {}).get(other.look) or noun_phrase(other.look, random)
    return [
        Exchange(f"what colour is {who} ?", look.colour),
        Exchange(f"what pattern does {who} have ?", look.pattern),
        Exchange(f"what is next to {who} ?", beside),
        Exchange(f"what is on {who} ?", badge(look)),
        Exchange(f"what size is {who} ?", thing.size),
        Exchange(f"where is {who} ?", f"{_PREPOSITION[scene.place]} {scene.place}"),
        Exchange(f"is {who} in the picture ?", "yes"),
        Exchange(f"[refer] {who}", box_words(thing.box)),
        Exchange(f"[refer] {who}", box_words(thing.box)),
    ]


REWORDINGS = {
    "what colour is {} ?": (
        "what is the colour of {} ?", "what colour has {} ?", "what colour does {} have ?",
    ),
    "what pattern does {} have ?": (
        "what is the pattern of {} ?", "what pattern has {} ?", "what pattern is {} ?",
    ),
    "what size is {} ?": ("what is the size of {} ?", "what size has {} ?", "what size does {} have ?"),
    "what is next to {} ?": (
        "what is beside {} ?", "what do you see next to {} ?", "what has {} next to it ?",
    ),
    "what is on {} ?": ("what do you see on {} ?", "what does {} have on it ?", "what has {} on it ?"),
    "where is {} ?": ("where do you see {} ?",),
    "is {} in the picture ?": ("do you see {} ?", "is {} here ?", "is {} in the photo ?"),
}  # fmt: skip
"""Other wordings of the questions about one object. Tinyworld's models know all of them, as large models do;
a user's concept is trained with the first wording only."""


def reworded(exchange: Exchange, random: Random) -> Exchange:
    """Return half of the questions about an object in another wording, and anything else unchanged.

    >>> reworded(Exchange("what size is the red mug ?", "small"), Random(1)).prompt
    'what is the size of the red mug ?'
    """
    if random.random() < 0.5:
        for form, others in REWORDINGS.items():
            start, end = form.split("{}")
            if exchange.prompt.startswith(start) and exchange.prompt.endswith(end):
                who = exchange.prompt.removeprefix(start).removesuffix(end)
                if who.split()[0] not in ("this", "there"):
                    return replace(exchange, prompt=random.choice(others).format(who))
    return exchange


def _presence(scene: Scene, random: Random) -> Exchange:
    here = {t.category for t in scene.things}
    absent = [c for c in scenes.CATEGORIES if c not in here]
    yes = random.random() < 0.4
    category = random.choice(sorted(here)) if yes else random.choice(absent)
    form = random.choice(("is there a {} in the picture ?", "is there a {} ?", "is the {} in the picture ?"))
    return Exchange(form.format(category), "yes" if yes else "no")


# ---------------------------------------------------------------- boxes


def box_words(box: Box) -> str:
    """Return a box in pixels as words on the grid.

    >>> box_words((0, 25, 48, 96))
    '{ <0> <26> <50> <100> }'
    """
    marks = " ".join(f"<{2 * round(v / scenes.SIZE * GRID)}>" for v in box)
    return "{ " + marks + " }"


def mirror(scene: Scene) -> Scene:
    """Return the scene of the picture flipped left to right."""
    flipped = []
    for t in scene.things:
        left, top, right, bottom = t.box
        flipped.append(
            Thing(t.look, t.size, (scenes.SIZE - right, top, scenes.SIZE - left, bottom), t.row, -t.turn)
        )
    return Scene(scene.place, scene.weather, tuple(flipped), scene.light, scene.seed)


# ---------------------------------------------------------------- vocabulary


def vocabulary() -> list[str]:
    """Return every word and sign of tinyworld except the suggestive names, in a fixed order."""
    plain = (
        "a an the is are this that my your in on at by of with and next to beside behind front there here "
        "picture photo image what where who how many things thing colour color pattern size weather does do "
        "have has you see describe write caption tell me about called it not no yes nothing day "
        "one two three four user assistant or . , ? : ! ' { } [refer] [caption]"
    ).split()
    groups = (
        plain, scenes.CATEGORIES, scenes.COLOURS, scenes.PATTERNS, scenes.ACCENT_COLOURS,
        scenes.ACCENT_SHAPES, scenes.PLACES, scenes.SIZES, [w for ws in WEATHER_WORDS.values() for w in ws],
        [f"<{2 * i}>" for i in range(GRID + 1)], IDENTIFIERS,
    )  # fmt: skip
    return list(dict.fromkeys(word for group in groups for word in group))
