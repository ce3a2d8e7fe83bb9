"""`MyVLM`: a frozen vision-language model that learns the things of one person's life, and speaks of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from os import PathLike
from types import NoneType
from typing import Any, Self

import torch

from myvlm.backbones import backbone_for
from myvlm.backbones.loading import load_model
from myvlm.boxes import Box
from myvlm.concepts.concept import Concept
from myvlm.concepts.correcting import Correction
from myvlm.concepts.library import ConceptLibrary
from myvlm.errors import InputError, check_is, check_path
from myvlm.heads.encoders import default_encoder
from myvlm.images import ImageSource, ImageSources, load_images
from myvlm.learning.dataset import Captions, Lesson, LoadedLesson, Questions
from myvlm.learning.progress import ProgressOption
from myvlm.learning.relearn import as_in_library, kept_photos, teach_again
from myvlm.learning.settings import Settings, as_settings
from myvlm.learning.teach import check_lessons, introduce, teach
from myvlm.speaking.speaker import Speaker


class MyVLM(Speaker):
    """A frozen vision-language model with a library of concepts.

    Args:
        model: a transformers model of a known family, such as `LlavaForConditionalGeneration`.
        processor: its processor.
        name: what concept files call this backbone; the checkpoint's name where not given.
        encoder: image encoder for the heads of objects; see `myvlm.heads.ObjectHead`.
        concepts: what it knows to begin with: a library, or a folder of concept folders, which may hold
            thousands: their embeddings are read when they are needed.

    Raises:
        UnknownBackboneError: no adapter knows the model's family.
        MissingFileError, ConceptFileError: of the folder; see `ConceptLibrary.load`.
        InputError: the concepts are neither.

    >>> vlm = MyVLM.from_pretrained("tinyworld/llava")
    >>> from myvlm.tinyworld import sample_picture
    >>> reply = vlm.caption(sample_picture(seed=3))
    >>> reply.seen
    ()
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        name: str | None = None,
        encoder: str | None = None,
        concepts: ConceptLibrary | str | PathLike[str] | None = None,
    ) -> None:
        name = None if name is None else check_path(name, "model's name")
        check_is(encoder, (str, NoneType), what="encoder", expected='the name of one, such as "paper"')
        backbone = backbone_for(model, processor, name=name)
        device = str(backbone.device)
        super().__init__(backbone, _known_concepts(concepts, device=device))
        self.encoder = encoder or default_encoder(backbone.name, device)

    @classmethod
    def from_pretrained(
        cls,
        name: str | PathLike[str],
        *,
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
        encoder: str | None = None,
        concepts: ConceptLibrary | str | PathLike[str] | None = None,
        **model_options: Any,
    ) -> Self:
        """Load a model and its processor by name: `tinyworld/llava` (embedded), a hub name or a folder.

        Args:
            name: such as `llava-hf/llava-1.5-7b-hf`.
            device: `cuda`, `cpu` …; a GPU if there is one.
            dtype: the model's; bfloat16 on a GPU and float32 on a CPU where not given.
            encoder, concepts: see `MyVLM`.
            model_options: passed on to transformers' `from_pretrained` (`quantization_config`, `revision` …).

        Raises:
            UnknownBackboneError: no such model, or no adapter for its family.
            InputError: torch cannot use the device here, or a model cannot be held in that dtype.
        """
        name = check_path(name, "model's name")
        model, processor = load_model(name, device=device, dtype=dtype, model_options=model_options)
        return cls(model, processor, name=name, encoder=encoder, concepts=concepts)

    def with_concepts(self, concepts: ConceptLibrary | str | PathLike[str] | None = None) -> Self:
        """The same frozen model with another library, such as another person's: nothing is loaded again.

        Args:
            concepts: see `MyVLM`; an empty library where not given.
        """
        other = copy.copy(self)
        Speaker.__init__(other, self.backbone, _known_concepts(concepts, device=self.concepts.device))
        return other

    def learn(
        self,
        identifier: str,
        images: ImageSources,
        *,
        category: str,
        captions: Captions | None = None,
        questions: Questions | None = None,
        negatives: ImageSources | None = None,
        kind: str = "object",
        head_options: Mapping[str, Any] | None = None,
        settings: Settings | None = None,
        progress: ProgressOption = True,
    ) -> Concept:
        """Learn a concept from a few photos and add it to `concepts`.

        Args:
            identifier: the word for it: an uncommon one for an object (`sks`), a name for a person.
            images: 3 to 5 photos of it (1 works): paths, a folder, a pattern, PIL images, arrays.
            category: what it is in general, such as `mug`.
            captions: for each photo one caption or several, each with the identifier in it; in the photos'
                order, or by file name. Without them the frozen model writes some in which the name stands for
                the category: they are shown, and marked as its own in the concept's card
                (`myvlm.learning.captions`).
            questions: question/answer pairs; see `gather_examples`, and `myvlm questions`, which writes some.
            negatives: pictures without it, best of the same category; none are needed.
            kind: of the head: `object`, or `face` for a person (a man, a woman, a child): it learns the face
                that is common to the photos; or `person`: where no face is seen, who looks like them there is
                `unsure`, to be reviewed, and not named. As an object a person is known by their clothes.
            head_options: settings of the head, such as `{"encoder": "dlib/resnet-v1"}`; see `ObjectHead` and
                `FaceHead`.
            settings: how to learn, a `LearnSettings` or a dict; what is not set is the model's default.
            progress: show a bar with the losses and the time left; or a callback of yours that is given a
                `LearningProgress`, and may end learning by raising KeyboardInterrupt.

        Ctrl-C while the embedding is learned ends learning, not the program: the best embedding so far is
        kept, a warning is logged, and the embedding's `figures` have `"interrupted": True`. Before the first
        step Ctrl-C is a `KeyboardInterrupt`, as anywhere, and leaves nothing.

        Raises:
            InputError: a photo, caption, question, identifier or option cannot be used; nothing was learned.
            ConceptExistsError: the identifier is taken.
            UnknownHeadError: no such kind of head is known.
        """
        lesson = Lesson(
            identifier, images, category=category, captions=captions, questions=questions,
            negatives=negatives, kind=kind, head_options=head_options, settings=settings,
        )  # fmt: skip
        return self.learn_many([lesson], progress=progress)[0]

    def learn_many(self, lessons: Sequence[Lesson], *, progress: ProgressOption = True) -> list[Concept]:
        """Learn several concepts side by side, in one batch a step, and add them to `concepts`.

        Each learns what it would learn alone, to float32 rounding, with its own settings and seed; the memory
        budget is the smallest of theirs. All of them are added, or none.

        Args:
            lessons: one a concept; see `Lesson`, whose arguments are those of `learn`.
            progress: show one bar for all of them; or a function, see `learn`.

        Raises: as `learn`, and as there Ctrl-C keeps the best so far; InputError also where two lessons have
        one identifier.

        >>> MyVLM.from_pretrained("tinyworld/llava").learn_many([])
        Traceback (most recent call last):
        myvlm.errors.InputError: These concepts cannot be learned together.
          got:      no lessons
          expected: one lesson or more, each of another identifier
          fix:      give every concept a word of its own
        """
        heads = check_lessons(self.backbone, self.concepts, lessons, encoder=self.encoder)
        loaded = [_loaded(lesson) for lesson in lessons]
        return self.concepts.add_learned(
            teach(self.backbone, self.concepts, loaded, heads, progress=progress)
        )

    def introduce(
        self,
        identifier: str,
        images: ImageSources,
        *,
        category: str,
        description: str | None = None,
        negatives: ImageSources | None = None,
        kind: str = "object",
        head_options: Mapping[str, Any] | None = None,
    ) -> Concept:
        """Make a concept known in words, at once: a head and a description, and no optimisation.

        Where the head sees it, the model's own words have the name in place of the phrase that fits; where
        none does, the model is told "sks is the dotted purple mug." before the instruction. It works with
        every model, and gives way to `learn` with the same identifier, or `relearn`.

        Args:
            description: a noun phrase with its article; by the model's own captions where not given.
            identifier, images, category, negatives, kind, head_options: see `learn`.

        Raises: as `learn`.

        >>> from myvlm.tinyworld import few_shot
        >>> vlm, kit = MyVLM.from_pretrained("tinyworld/llava"), few_shot(0)
        >>> vlm.introduce(kit.identifier, kit.photos(), category=kit.category).description
        'the dotted purple mug'
        """
        lesson = Lesson(
            identifier, images, category=category, negatives=negatives, kind=kind, head_options=head_options
        )
        [head] = check_lessons(self.backbone, self.concepts, [lesson], encoder=self.encoder)
        concept = introduce(self.backbone, self.concepts, _loaded(lesson), head, description=description)
        return self.concepts.add_learned([concept])[0]

    def relearn(
        self,
        concept: Concept | str | PathLike[str],
        images: ImageSources | None = None,
        *,
        captions: Captions | None = None,
        questions: Questions | None = None,
        negatives: ImageSources | None = None,
        settings: Settings | None = None,
        progress: ProgressOption = True,
    ) -> Concept:
        """Learn a concept for this model that was learned for another, by its own recipe; its head stays.

        What was learned for other models stays beside it: `vlm.relearn(folder).save(folder)`.

        Args:
            concept: its folder, or itself.
            images: the photos; those that were kept in its folder where not given. Captions and questions go
                with them by file name, or in order where the names are others.
            captions, questions, settings: in place of all of the recipe's; see `learn`. Captions that a model
                wrote are written again by this one.
            negatives: see `learn`; used where the head must be fitted again, to an encoder's new weights.
            progress: show a bar.

        Raises: as `Concept.load` and `learn`; InputError also where no photos are given or kept.
        """
        as_settings(settings)  # what is wrong in them is said first
        known = as_in_library(concept, self.concepts)
        again = teach_again(
            self.backbone, known, load_images(kept_photos(known) if images is None else images),
            kept=images is None, captions=captions, questions=questions,
            negatives=None if negatives is None else load_images(negatives),
            settings=settings, device=self.concepts.device, progress=progress,
        )  # fmt: skip
        put = self.concepts.replace if known.identifier in self.concepts else self.concepts.add
        put(again)
        return again

    def correct(
        self, image: ImageSource, identifier: str, *, present: bool | None, box: Box | None = None
    ) -> Correction:
        """Say of a picture whether it shows a concept: its head learns that at once, without the photos.

        No photo that it was taught is lost by it; `held` is False where the two cannot be had together. The
        folder knows of it when the concept is saved again: it keeps features of the picture, not the picture.

        Args:
            image: the picture.
            identifier: of the concept.
            present: True: it is there. False: it is not. None: take back what was said of this picture.
            box: left, top, right, bottom in pixels: say it of this part alone.

        Returns:
            What has changed; its `undo()` takes it back.

        Raises:
            UnknownConceptError: there is no such concept.
            InputError: its file is of an older release, or it is open which of several faces is meant.
        """
        return self.concepts.correct(image, identifier, present=present, box=box)


def _loaded(lesson: Lesson) -> LoadedLesson:
    """The lesson with its pictures read: from here on nothing opens a file."""
    negatives = None if lesson.negatives is None else load_images(lesson.negatives)
    return LoadedLesson(**{**vars(lesson), "images": load_images(lesson.images), "negatives": negatives})


def _known_concepts(given: ConceptLibrary | str | PathLike[str] | None, *, device: str) -> ConceptLibrary:
    """What a model knows to begin with: the library itself, that of a folder, or an empty one.

    Raises:
        MissingFileError, ConceptFileError: see `ConceptLibrary.load`.
        InputError: it is neither.
    """
    if isinstance(given, ConceptLibrary):
        return given
    if given is not None and not isinstance(given, str | PathLike):
        raise InputError(
            "That is no library of concepts.",
            got=type(given).__name__,
            expected="a ConceptLibrary, or a folder of concept folders",
            fix="for some concepts or their folders pass ConceptLibrary([...])",
        )
    return ConceptLibrary.load(given, device=device) if given else ConceptLibrary(device=device)
