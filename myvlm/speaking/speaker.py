"""`Speaker`, the inference half of `MyVLM`: captions, answers, locations and attention maps.

It runs heads, which detect concepts, and a backbone, which generates text, as `learning.teach` does for
learning; heads and backbones do not depend on each other.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, NoReturn, Self, overload

from myvlm.backbones import Backbone
from myvlm.backbones.tokens import as_written, single_turn
from myvlm.concepts.concept import warn_learned_elsewhere
from myvlm.concepts.library import ConceptLibrary
from myvlm.errors import InputError
from myvlm.heads.detections import Detections
from myvlm.images import ImageSource, ImageSources, LoadedImage, listed, load_image, naming
from myvlm.results import AttentionMap, Replies, Reply
from myvlm.speaking.addressing import Names, build_model_input, generate_replies
from myvlm.speaking.batches import AT_ONCE, OnError, check_on_error, map_in_batches
from myvlm.speaking.conversation import Conversation
from myvlm.speaking.locating import GROUNDING_OPTIONS, Location, resolve_location
from myvlm.text import check_written, find_word


class Speaker:
    """Caption pictures, answer questions about them and locate concepts, with a library of concepts.

    Args:
        backbone: the frozen model, behind its family's adapter.
        concepts: the library; adding a concept that this model has yet to learn gives a warning.
    """

    def __init__(self, backbone: Backbone, concepts: ConceptLibrary) -> None:
        self.backbone = backbone
        self.concepts = concepts
        self.concepts.on_add(warn_learned_elsewhere, of=backbone)
        self._generic_blocks = GenericBlocks()
        self._names: tuple[object, Names] = None, Names(backbone)
        self._checked_state: object = self  # the library's state when last checked for unlearned concepts

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
            f"A {type(self).__name__} cannot be pickled, because it contains a model.",
            got=f"the model {self.backbone.name}",
            expected="only its concepts",
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
            images: paths, folders, patterns, PIL images or arrays; many are batched. With more than 16, every
                file is read once before the first is described, and no picture is kept in memory.
            prompt: an instruction instead of the family's own.
            errors: with `"keep"` an unusable picture gets a reply with its `error`, and the others are
                described; with `"raise"` the error is raised, with the earlier `replies` as an attribute.
            generation: options of transformers' `generate`; by default greedy, up to 64 tokens.

        Raises:
            ImageError, MissingFileError: a picture cannot be used; the error names it.
            InputError: an option or the prompt cannot be used, such as one with special tokens of the model.
        """
        if prompt is None or (isinstance(prompt, str) and not prompt):
            prompt = self.backbone.caption_prompt
        else:
            check_written(prompt, "prompt")
        return self._reply_to(images, prompt, errors, generation)

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
        """Answer a question about one picture or many; question and answer call concepts by identifier.

        Other arguments and errors are those of `caption`.
        """
        return self._reply_to(images, check_written(question, "question"), errors, generation)

    def chat(self, image: ImageSource) -> Conversation:
        """Start a conversation about one picture; each `chat.ask(…)` has all earlier turns in its prompt.

        Raises:
            InputError: there are several pictures.
        """
        self._check_learned()
        photo = load_image(image)
        [found] = self._recognise([photo])
        return Conversation(self.backbone, photo, found, self.concepts.present(found), self._current_names())

    def attention(self, image: ImageSource, identifier: str) -> AttentionMap:
        """The model's attention over a picture as it names the concept, whether or not the head detects it.

        Raises:
            UnknownConceptError: there is no such concept.
            ConceptFileError: it was learned for other models only.
            InputError: there are several pictures; or it was only introduced, and the reply does not name it.
        """
        concept = self.concepts[identifier]
        photo = load_image(image)
        if concept.learned_elsewhere(self.backbone.fingerprint()):
            self.backbone.rows_of(concept)  # raises, and says how to learn it: hints may not get it named
        prompt, rows, _ = build_model_input(self.backbone, self.backbone.caption_prompt, [concept])
        with naming([photo], self.backbone.encode):
            [reply] = self.backbone.generate([photo.image], [prompt], [rows])
        word, box = as_written(self.backbone, concept.spoken), self.backbone.field_of_view(photo.image.size)
        if not rows and find_word(reply.text, word) is None:
            raise InputError(
                f"The reply does not name {identifier!r}, which was only introduced: no attention to show.",
                got=repr(reply.text),
                expected=f"{word!r} in the reply, or a learned concept",
                fix=f"learn it {concept.how_again(self.backbone.name)}",
            )
        values = self.backbone.attention_map(photo.image, single_turn(prompt), reply.text, word, rows)
        return AttentionMap(values, photo.image, concept.identifier, box)

    def locate(self, image: ImageSource, identifier: str) -> Location:
        """Locate a concept in a picture, by a box that the model generates, or by its head if there is none.

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
            # Only this concept's rows: with other concepts' rows a small model points at those concepts too.
            [spoken] = generate_replies(
                self.backbone, [photo], [[concept]], [prompt], GROUNDING_OPTIONS, always_rows=True
            )
            words = spoken.text
        return resolve_location(self.backbone, detection, words, photo.image)

    @contextmanager
    def generic(self) -> Iterator[Self]:
        """A context in which `caption` and `ask` run the plain frozen model, without detection and rows.

        This holds for the current thread or asyncio task, until the block ends. Other threads and tasks, and
        generators, whose steps may run anywhere, can use `with vlm.generic() as plain`: that object is always
        plain. In the block `locate` finds nothing; `attention` adds the rows of its concept as usual.
        """
        plain = copy.copy(self)
        plain._generic_blocks = GenericBlocks(always=True)
        with self._generic_blocks.block():
            yield plain

    # ------------------------------------------------------------------ internals

    def _reply_to(
        self, images: ImageSources, prompt: str, errors: OnError, generation: dict[str, Any]
    ) -> Reply | Replies:
        """Pictures → heads → rows of the detected concepts → backbone → replies."""
        keep = check_on_error(errors)
        sources, single = listed(images, keep_errors=keep)
        self._check_learned()
        album = len(sources) > AT_ONCE

        def replies(photos: list[LoadedImage]) -> list[Reply]:
            detections = self._recognise(photos)
            seen = [self.concepts.present(found) for found in detections]
            count = len(photos)
            boxes = [found.box_of for found in detections]
            names = [self._current_names()] * count
            spoken = generate_replies(self.backbone, photos, seen, [prompt] * count, generation, names, boxes)
            for found in detections if album else ():  # boxes found later would need the pictures
                found.compute_present_boxes()
            parts = zip(spoken, detections, photos, strict=True)
            return [
                Reply(one.text, found, photo.path if album and photo.path else photo.image, one.token_ids,
                      absent=one.absent)
                for one, found, photo in parts
            ]  # fmt: skip

        made = map_in_batches(sources, replies, Reply.instead if keep else None)
        return made[0] if single else Replies(made)

    def _check_learned(self) -> None:
        """Raise ConceptFileError if this model has yet to learn a concept of the library, detected or not."""
        if not self._generic_blocks and self._checked_state is not (state := self.concepts.state):
            weights = self.backbone.fingerprint()
            for concept in self.concepts.values():
                if concept.learned_elsewhere(weights) and concept.description is None:
                    self.backbone.rows_of(concept)
            self._checked_state = state  # once for each state: slow for ten thousand concepts

    def _current_names(self) -> Names:
        """The names of the library's concepts, cached until it changes; none within `generic`."""
        if self._generic_blocks:
            return Names(self.backbone)
        state, names = self._names
        if state is not self.concepts.state:
            self._names = state, names = self.concepts.state, Names(self.backbone, self.concepts.values())
        return names

    def _recognise(self, photos: list[LoadedImage]) -> list[Detections]:
        concepts = ConceptLibrary() if self._generic_blocks else self.concepts
        return concepts.recognise(photos)


class GenericBlocks:
    """The open `generic` blocks of one model; truthy in a thread or asyncio task that is inside of one.

    Code that inherits the context, as by `asyncio.to_thread` or in new tasks, is inside the block too. Once a
    block has ended, nothing is inside of it, in whatever context its end ran.

    Args:
        always: truthy everywhere.

    >>> blocks = GenericBlocks()
    >>> with blocks.block():
    ...     bool(blocks)
    True
    >>> bool(blocks), bool(GenericBlocks(always=True))
    (False, True)
    """

    def __init__(self, *, always: bool = False) -> None:
        self.always = always
        self._open: set[object] = set()
        self._entered: ContextVar[tuple[object, ...]] = ContextVar("myvlm_generic", default=())

    def __bool__(self) -> bool:
        return self.always or not self._open.isdisjoint(self._entered.get())

    def __reduce__(self) -> tuple[object, ...]:
        return partial(GenericBlocks, always=self.always), ()  # a copy starts outside of all blocks

    @contextmanager
    def block(self) -> Iterator[None]:
        """A context in which the model is plain for the current thread or task."""
        mine = object()
        self._open.add(mine)
        self._entered.set((*self._entered.get(), mine))
        try:
            yield
        finally:
            # The context may differ from the one at entry: a generator's steps run in their caller's.
            self._open.discard(mine)
            self._entered.set(tuple(one for one in self._entered.get() if one in self._open))
