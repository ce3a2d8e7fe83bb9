"""Training texts of the base of `tinyworld/smollm2`: plain English, never with a concept's name.

They are tinyworld's captions, questions and answers, in natural English and in the style that the instruction
asks for. Some wordings of instructions and questions are held out: `unseen=True` draws only from those.
"""

from __future__ import annotations

from random import Random

from benchmarks.pretrain.smollm2.packing import Text
from myvlm.tinyworld.language import REWORDINGS, Exchange, caption, noun_phrase, questions
from myvlm.tinyworld.smollm2.english import as_sentence, listed, short_phrase
from myvlm.tinyworld.world.scenes import Scene, Thing, look_alike

FULL = (
    "Describe the picture.", "Describe the image.", "What is in the picture?", "Write a caption.",
    "What do you see?", "Tell me about the picture.", "Describe this image in detail.",
    "Can you describe what is shown here?",
)  # fmt: skip
FULL_UNSEEN = (
    "Please describe this photo.", "What does the photo show?", "Give me a caption for this.",
    "Say what can be seen here.",
)  # fmt: skip
SHORT = (
    "Describe the picture briefly.", "Write a short caption.", "What is this, in a few words?",
    "Give a brief description.",
)  # fmt: skip
SHORT_UNSEEN = ("Briefly, what do you see?", "Caption this in a few words.")
LIST = (
    "List the things in the picture.", "Which things are there?", "What objects and creatures can you see?",
    "Name everything in the picture.",
)  # fmt: skip
LIST_UNSEEN = ("Make a list of what is here.", "What things does the picture show?")
PLACE = (
    "Where is this?", "Where was the picture taken?", "What place is this?", "Name the place.",
    "What surroundings are these?",
)  # fmt: skip
PLACE_UNSEEN = ("In which place are we?", "What is the setting?")
WEATHER = ("What is the weather?", "What is the weather like?")
WEATHER_UNSEEN = ("How is the weather here?",)
OTHER_FORMS = {
    "what colour is {} ?": (
        "which colour is {} ?", "tell me the colour of {} .", "in what colour is {} ?",
        "how is {} coloured ?", "name the colour of {} .", "can you tell me what colour {} is ?",
    ),
    "what pattern does {} have ?": (
        "which pattern does {} have ?", "tell me the pattern of {} .", "how is {} patterned ?",
        "is {} plain , striped , dotted or checked ?", "name the pattern of {} .", "what pattern is on {} ?",
    ),
    "what size is {} ?": (
        "how big is {} ?", "is {} small or large ?", "how large is {} ?", "tell me the size of {} .",
        "which size is {} ?", "say whether {} is large or small .",
    ),
    "what is next to {} ?": (
        "who or what stands beside {} ?", "what is near {} ?", "what can be found next to {} ?",
        "which thing is closest to {} ?", "name what is beside {} .", "tell me what {} stands next to .",
        "what do you notice close to {} ?", "what has {} at its side ?", "which thing do you see by {} ?",
        "what does {} have for a neighbour ?",
    ),
    "what is on {} ?": (
        "what can be seen on {} ?", "what is there on {} ?", "which mark is on {} ?", "name the mark on {} .",
        "which mark does {} carry ?", "tell me what {} has as a mark .", "what do you notice on {} ?",
        "what has {} printed on it ?", "which sign do you see on {} ?", "what does {} have for a mark ?",
    ),
    "where is {} ?": (
        "in which place is {} ?", "where was {} photographed ?", "tell me where {} is .",
        "what place is {} in ?", "where can {} be found ?", "at what place does {} stand ?",
    ),
    "is {} in the picture ?": (
        "does the picture show {} ?", "is {} to be seen ?", "can you find {} ?", "is {} shown ?",
        "does {} appear in the picture ?", "tell me whether {} is there .",
    ),
}  # fmt: skip
"""Further wordings of a question beside the first two, each as frequent as those."""
ABSENT = ("is {} in the picture ?", "is there {} ?", *OTHER_FORMS["is {} in the picture ?"])
TAUGHT_IN_WORDS = 0.15
"""Weight in a caption's loss of the language model as teacher, which gets the picture in words. At 0.3
captions become incomplete, and copying from the context gets no better."""
QUESTIONS = 3
"""Number of questions packed with a caption after one picture."""
HARD, HARD_TIMES = ("what size is ", "what is next to ", "what is on "), 3
"""The questions answered worst, and how often each is asked for one of the rest. "Next to" and "on" questions
are worded alike: if one gets more wordings in training, the other is forgotten."""


def draw_texts(scene: Scene, random: Random, *, questions_each: int = QUESTIONS) -> list[Text]:
    """One caption in some style and a few questions, in trained wordings.

    >>> from myvlm.tinyworld.world.scenes import random_scene
    >>> [e.prompt for e in draw_texts(random_scene(Random(1)), Random(1))][0] in (*FULL, *SHORT, *LIST)
    True
    """
    shown = draw_caption(scene, random)
    told = Text(shown.prompt, shown.answer, facts=facts(scene, random), teacher=TAUGHT_IN_WORDS)
    asked = draw_questions(scene, random, hard_times=HARD_TIMES)[:questions_each]
    return [told, *(Text(one.prompt, one.answer) for one in asked)]


def facts(scene: Scene, random: Random) -> str:
    """The whole content of a picture in words, for the language model without a picture."""
    return f"The picture shows: {as_sentence(caption(scene, random))}"


def draw_caption(scene: Scene, random: Random, *, unseen: bool = False) -> Exchange:
    """Mostly a full caption; a short one or a list if the instruction asks for it."""
    style = random.choices((FULL, SHORT, LIST), (0.7, 0.15, 0.15))[0]
    if style is FULL:
        return Exchange(random.choice(FULL_UNSEEN if unseen else FULL), as_sentence(caption(scene, random)))
    things = [*scene.in_row("front"), *scene.in_row("back")]
    if style is SHORT:
        what = " and ".join(short_phrase(t) for t in things[:2])
        where = caption_place(scene)
        return Exchange(random.choice(SHORT_UNSEEN if unseen else SHORT), as_sentence(f"{what} {where} ."))
    phrases = [noun_phrase(t.look, random) for t in things]
    return Exchange(random.choice(LIST_UNSEEN if unseen else LIST), as_sentence(f"{listed(phrases)} ."))


def caption_place(scene: Scene) -> str:
    """The place, such as `on the beach`, as tinyworld words it."""
    return next(e.answer for e in questions(scene, Random(0)) if e.prompt == "where is this ?")


def draw_questions(
    scene: Scene, random: Random, *, unseen: bool = False, hard_times: int = 1
) -> list[Exchange]:
    """All questions except for boxes, in random order, hard ones `hard_times` each, and questions about
    absent objects for half of the objects."""
    asked = []
    for exchange in questions(scene, random):
        if "[refer]" in exchange.prompt:
            continue
        for _ in range(hard_times if exchange.prompt.startswith(HARD) else 1):
            if found := _reformed(exchange, random, unseen):
                asked.append(Exchange(as_sentence(found.prompt), as_sentence(found.answer)))
    asked += [_absent(thing, scene, random, unseen) for thing in scene.things if random.random() < 0.5]
    random.shuffle(asked)
    return asked


def _reformed(exchange: Exchange, random: Random, unseen: bool) -> Exchange | None:
    """The exchange in a trained or held-out wording; None if there is none."""
    if exchange.prompt == "where is this ?":
        return Exchange(random.choice(PLACE_UNSEEN if unseen else PLACE), exchange.answer)
    if exchange.prompt == "what is the weather ?":
        return Exchange(random.choice(WEATHER_UNSEEN if unseen else WEATHER), exchange.answer)
    for form, others in REWORDINGS.items():
        start, end = form.split("{}")
        if exchange.prompt.startswith(start) and exchange.prompt.endswith(end):
            who = exchange.prompt.removeprefix(start).removesuffix(end)
            if who.split()[0] in ("this", "there"):
                break
            forms = others[1:] if unseen else (form, form, others[0], *OTHER_FORMS[form])
            return Exchange(random.choice(forms).format(who), exchange.answer) if forms else None
    return None if unseen else exchange


def _absent(thing: Thing, scene: Scene, random: Random, unseen: bool) -> Exchange:
    """A question about an absent object that resembles `thing`."""
    there = {(t.category, t.look.colour, t.look.pattern) for t in scene.things}
    while True:
        look = look_alike(thing.look, random)
        if (look.category, look.colour, look.pattern) not in there:
            break
    who = noun_phrase(look, accent=False)
    form = "can you see {} here ?" if unseen else random.choice(ABSENT)
    return Exchange(as_sentence(form.format(who)), "No.")
