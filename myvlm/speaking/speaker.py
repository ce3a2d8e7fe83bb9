"""A frozen model that speaks of pictures and of the concepts in them.

Here heads, which recognise, and backbones, which speak, are joined, as `learning.teach` joins them to learn;
neither knows of the other.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, NoReturn, Self, overload

from myvlm.backbones import Backbone
from myvlm.backbones.tokens import as_written, only_turn
from myvlm.concepts.concept import warn_learned_elsewhere
from myvlm.concepts.library import ConceptLibrary
from myvlm.errors import InputError
from myvlm.heads.detections import Detections
from myvlm.images import ImageSource, ImageSources, LoadedImage, listed, load_image, naming
from myvlm.results import AttentionMap, Replies, Reply
from myvlm.speaking.addressing import Names, address, speak
from myvlm.speaking.batches import AT_ONCE, OnError, check_on_error, made_of_each
from myvlm.speaking.conversation import Conversation
from myvlm.speaking.locating import READING, Location, located
from myvlm.text import check_written


class Speaker:
    """What `MyVLM` says: captions, answers, places and attention, with a library of concepts.

    Args:
        backbone: the frozen model, behind its family's adapter.
        concepts: the library; it tells of concepts that this model has yet to learn.
    """

    def __init__(self, backbone: Backbone, concepts: ConceptLibrary) -> None:
        self.backbone = backbone
        self.concepts = concepts
        self.concepts.on_add(warn_learned_elsewhere, of=backbone)
        self._plain = PlainBlocks()
        self._names: tuple[object, Names] = None, Names(backbone)
        self._checked: object = self  # the state of the library in which all were found to be learned

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.backbone.name!r}, {self.concepts!r})"

    def __copy__(self) -> Self:
        twin = object.__new__(type(self))
        vars(twin).update(vars(self))
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = memo[id(self)] = object.__new__(type(self))
        vars(twin).update(copy.deepcopy(vars(self), memo))
        return twin

    def __reduce__(self) -> NoReturn:
        raise InputError(
            f"A {type(self).__name__} cannot be pickled: it holds a model.",
            got=f"{self.backbone.name}, as for another process",
            expected="its concepts alone",
            fix=f"pickle `vlm.concepts`, or save them; in the other process: "
            f"MyVLM.from_pretrained({self.backbone.name!r}, concepts=...)",
        )

    @overload
    def caption(
        self, images: ImageSource, *, prompt: str | None = ..., errors: OnError = ..., **generation: Any
    ) -> Reply: ...
    @overload
    def caption(
        self,
        images: Sequence[ImageSource],
        *,
        prompt: str | None = ...,
        errors: OnError = ...,
        **generation: Any,
    ) -> Replies: ...
    def caption(
        self, images: ImageSources, *, prompt: str | None = None, errors: OnError = "raise", **generation: Any
    ) -> Reply | Replies:
        """Describe one picture (a `Reply`) or many (a list of them), naming the concepts that are in them.

        Args:
            images: paths, folders, patterns, PIL images or arrays; many are batched. Of more than 16 every
                file is read once before the first is described, and none is kept in memory.
            prompt: an instruction instead of the family's own.
            errors: with `"keep"` a picture that cannot be used gets a reply that holds its `error`, and the
                others go on; else it is raised, and has the `replies` to those before it.
            generation: passed on to transformers' `generate`; greedy, up to 64 tokens, where not given.

        Raises:
            ImageError, MissingFileError: a picture cannot be used; the error names it.
            InputError: an option or the prompt cannot be, as one with special tokens of the model in it.
        """
        if prompt is None or (isinstance(prompt, str) and not prompt):
            prompt = self.backbone.caption_prompt
        else:
            check_written(prompt, "prompt")
        return self._speak(images, prompt, errors, generation)

    @overload
    def ask(
        self, images: ImageSource, question: str, *, errors: OnError = ..., **generation: Any
    ) -> Reply: ...
    @overload
    def ask(
        self, images: Sequence[ImageSource], question: str, *, errors: OnError = ..., **generation: Any
    ) -> Replies: ...
    def ask(
        self, images: ImageSources, question: str, *, errors: OnError = "raise", **generation: Any
    ) -> Reply | Replies:
        """Answer a question about one picture or many; concepts go by their identifiers in both texts.

        The rest is as in `caption`.
        """
        return self._speak(images, check_written(question, "question"), errors, generation)

    def chat(self, image: ImageSource) -> Conversation:
        """A conversation about one picture: `chat.ask(…)` again and again, each behind what was said before.

        Raises:
            InputError: there are several pictures.
        """
        self._check_learned()
        photo = load_image(image)
        [found] = self._recognise([photo])
        return Conversation(self.backbone, photo, found, self.concepts.present(found), self._known())

    def attention(self, image: ImageSource, identifier: str) -> AttentionMap:
        """Where the model looks in a picture as it names the concept, whether or not the head sees it there.

        Raises:
            UnknownConceptError: there is no such concept.
            ConceptFileError: it was learned for other models alone.
            InputError: there are several pictures; or it was only introduced, and the model does not say it.
        """
        concept = self.concepts[identifier]
        photo = load_image(image)
        if concept.learned_elsewhere(self.backbone.fingerprint()):
            self.backbone.rows_of(concept)  # words alone may go unsaid; the error says how it is learned
        prompt, rows, _ = address(self.backbone, self.backbone.caption_prompt, [concept])
        with naming([photo], self.backbone.encode):
            [reply] = self.backbone.generate([photo.image], [prompt], [rows])
        word, box = as_written(self.backbone, concept.spoken), self.backbone.field_of_view(photo.image.size)
        values = self.backbone.attention_map(photo.image, only_turn(prompt), reply.text, word, rows)
        return AttentionMap(values, photo.image, concept.identifier, box)

    def locate(self, image: ImageSource, identifier: str) -> Location:
        """Where a concept is in a picture, by the model's own words, or by the head where it has none.

        Raises:
            UnknownConceptError: there is no such concept.
            InputError: there are several pictures.
        """
        concept = self.concepts[identifier]
        photo = load_image(image)
        [found] = self._recognise([photo])
        detection = next((d for d in found if d.identifier == concept.identifier), None)
        prompt = self.backbone.refer(concept.identifier)
        words = ""
        if prompt and detection and detection.present:
            # Its own rows alone: with those of the others that are there a small model points at these too.
            [spoken] = speak(self.backbone, [photo], [[concept]], [prompt], READING, always_rows=True)
            words = spoken.text
        return located(self.backbone, detection, words, photo.image)

    @contextmanager
    def generic(self) -> Iterator[Self]:
        """Within it `caption` and `ask` are the frozen model's own: nothing is recognised, nothing appended.

        That goes for the thread or asyncio task that is in the block, until it ends. For others, and in a
        generator, whose steps may run anywhere, `with vlm.generic() as plain` gives one that always is.
        `locate` finds nothing. `attention` is about one concept, whose rows it appends in any case.
        """
        plain = copy.copy(self)
        plain._plain = PlainBlocks(always=True)
        with self._plain.block():
            yield plain

    # ------------------------------------------------------------------ the walk

    def _speak(
        self, images: ImageSources, prompt: str, errors: OnError, generation: dict[str, Any]
    ) -> Reply | Replies:
        """Photo → heads → embeddings of those present → backbone → text."""
        keep = check_on_error(errors)
        sources, single = listed(images, keep_errors=keep)
        self._check_learned()
        album = len(sources) > AT_ONCE

        def replies(photos: list[LoadedImage]) -> list[Reply]:
            detections = self._recognise(photos)
            seen = [self.concepts.present(found) for found in detections]
            count = len(photos)
            where = [found.box_of for found in detections]
            names = [self._known()] * count
            spoken = speak(self.backbone, photos, seen, [prompt] * count, generation, names, where)
            for found in detections if album else ():  # what is located later holds the pictures
                found.locate_seen()
            parts = zip(spoken, detections, photos, strict=True)
            return [
                Reply(one.text, found, photo.path if album and photo.path else photo.image, one.token_ids,
                      absent=one.absent)
                for one, found, photo in parts
            ]  # fmt: skip

        made = made_of_each(sources, replies, Reply.instead if keep else None)
        return made[0] if single else Replies(made)

    def _check_learned(self) -> None:
        """Raise ConceptFileError for a concept that this model has yet to learn, be it seen or not."""
        if not self._plain and self._checked is not (state := self.concepts.state):
            weights = self.backbone.fingerprint()
            for concept in self.concepts.values():
                if concept.learned_elsewhere(weights) and concept.description is None:
                    self.backbone.rows_of(concept)
            self._checked = state  # of ten thousand it takes a while: once

    def _known(self) -> Names:
        """The names of the library's concepts, made anew when it has changed; none within `generic`."""
        if self._plain:
            return Names(self.backbone)
        state, names = self._names
        if state is not self.concepts.state:
            self._names = state, names = self.concepts.state, Names(self.backbone, self.concepts.values())
        return names

    def _recognise(self, photos: list[LoadedImage]) -> list[Detections]:
        concepts = ConceptLibrary() if self._plain else self.concepts
        return concepts.recognise(photos)


class PlainBlocks:
    """The `generic` blocks in which one model is plain, by context: that of a thread, or of an asyncio task.

    What is handed on with its context, as by `asyncio.to_thread` and to new tasks, is in the block too; and
    nobody is any more once it has ended, wherever its end was reached.

    Args:
        always: plain everywhere.

    >>> blocks = PlainBlocks()
    >>> with blocks.block():
    ...     bool(blocks)
    True
    >>> bool(blocks), bool(PlainBlocks(always=True))
    (False, True)
    """

    def __init__(self, *, always: bool = False) -> None:
        self.always = always
        self._open: set[object] = set()
        self._entered: ContextVar[tuple[object, ...]] = ContextVar("myvlm_generic", default=())

    def __bool__(self) -> bool:
        return self.always or not self._open.isdisjoint(self._entered.get())

    def __reduce__(self) -> tuple[object, ...]:
        return partial(PlainBlocks, always=self.always), ()  # whoever gets a copy is in no block of it

    @contextmanager
    def block(self) -> Iterator[None]:
        """Within it the model is plain here."""
        mine = object()
        self._open.add(mine)
        self._entered.set((*self._entered.get(), mine))
        try:
            yield
        finally:
            # The context may be another than at the start: a generator's steps run where they are asked for.
            self._open.discard(mine)
            self._entered.set(tuple(one for one in self._entered.get() if one in self._open))
