"""`MyVLM`: a frozen vision-language model that learns concepts from photos and names them in its replies."""

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
from myvlm.errors import InputError, MissingFileError, check_is, check_path
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
        name: the name of this backbone in concept files; the checkpoint's name by default.
        encoder: image encoder for object heads; see `myvlm.heads.ObjectHead`.
        concepts: the initial library: a `ConceptLibrary`, or a folder of concept folders. It may hold
            thousands: embeddings are read only when they are needed.

    Raises:
        UnknownBackboneError: there is no adapter for the model's family.
        MissingFileError, ConceptFileError: the folder cannot be loaded; see `ConceptLibrary.load`.
        InputError: `concepts` is neither a library nor a path.

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
        name = None if name is None else check_path(name, "model name")
        check_is(encoder, (str, NoneType), what="encoder", expected='an encoder name, such as "paper"')
        backbone = backbone_for(model, processor, name=name)
        device = str(backbone.device)
        super().__init__(backbone, _as_library(concepts, device=device))
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
            device: `cuda`, `cpu` …; by default a GPU if there is one.
            dtype: the model's dtype; by default bfloat16 on a GPU and float32 on a CPU.
            encoder, concepts: see `MyVLM`.
            model_options: passed on to transformers' `from_pretrained` (`quantization_config`, `revision` …).

        Raises:
            UnknownBackboneError: the model does not exist, or there is no adapter for its family.
            InputError: torch cannot use the device here, or the dtype is not one that models support.
        """
        name = check_path(name, "model name")
        model, processor = load_model(name, device=device, dtype=dtype, model_options=model_options)
        return cls(model, processor, name=name, encoder=encoder, concepts=concepts)

    def with_concepts(self, concepts: ConceptLibrary | str | PathLike[str] | None = None) -> Self:
        """The same frozen model with another library, such as another user's; the model is not loaded again.

        Args:
            concepts: see `MyVLM`; an empty library by default.
        """
        other = copy.copy(self)
        Speaker.__init__(other, self.backbone, _as_library(concepts, device=self.concepts.device))
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
            identifier: the word for the concept: an uncommon one for an object (`sks`), a name for a person.
            images: 3 to 5 photos of it (1 works): paths, a folder, a glob pattern, PIL images or arrays.
            category: the general term for it, such as `mug`.
            captions: one or more captions per photo, each containing the identifier; in the order of the
                photos, or keyed by file name. If omitted, the frozen model writes them, with the identifier
                in place of the category. They are shown, and marked in the concept's card as written by the
                model (`myvlm.learning.captions`).
            questions: question/answer pairs; see `gather_examples`, and `myvlm questions`, which writes some.
            negatives: pictures without the concept, ideally of the same category; optional.
            kind: kind of head. `object`; `face` for a person (category man, woman, child), which learns the
                face common to the photos; or `person`, which also considers people whose face is not visible:
                one who looks like the person is reported as `unsure`, for review, and is not named. With
                `object` a person is recognized by their clothes.
            head_options: arguments of the head, such as `{"encoder": "dlib/resnet-v1"}`; see `ObjectHead` and
                `FaceHead`.
            settings: training settings, a `LearnSettings` or a dict; unset ones get the model's defaults.
            progress: whether to show a progress bar with the losses and the time left; or a callback that
                receives a `LearningProgress` and may stop learning by raising KeyboardInterrupt.

        Ctrl-C during optimisation stops learning, not the program: the best embedding so far is kept, a
        warning is logged, and the embedding's `figures` contain `"interrupted": True`. Before the first step,
        Ctrl-C raises `KeyboardInterrupt` as usual and nothing is added.

        Raises:
            InputError: a photo, caption, question, identifier or option is invalid; nothing was learned.
            ConceptExistsError: the identifier is already taken.
            UnknownHeadError: there is no head of that kind.
        """
        lesson = Lesson(
            identifier, images, category=category, captions=captions, questions=questions,
            negatives=negatives, kind=kind, head_options=head_options, settings=settings,
        )  # fmt: skip
        return self.learn_many([lesson], progress=progress)[0]

    def learn_many(self, lessons: Sequence[Lesson], *, progress: ProgressOption = True) -> list[Concept]:
        """Learn several concepts at the same time, in one batch per step, and add them to `concepts`.

        Each concept gets the result that `learn` would give, up to float32 rounding, with its own settings
        and seed; the memory budget is the smallest of theirs. Either all of them are added or none.

        Args:
            lessons: one per concept; `Lesson` takes the arguments of `learn`.
            progress: show one bar for all of them; or a callback, see `learn`.

        Raises: as `learn`; InputError also if two lessons have the same identifier. Ctrl-C keeps the best
        embeddings so far, as in `learn`.

        >>> MyVLM.from_pretrained("tinyworld/llava").learn_many([])
        Traceback (most recent call last):
        myvlm.errors.InputError: These concepts cannot be learned together.
          got:      no lessons
          expected: at least one lesson, each with another identifier
          fix:      give every concept its own identifier
        """
        heads = check_lessons(self.backbone, self.concepts, lessons, encoder=self.encoder)
        loaded = [_with_loaded_pictures(lesson) for lesson in lessons]
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
        """Add a concept without optimisation: it gets a head and a description, but no embedding.

        Where the head detects the concept, the identifier replaces the phrase for it in the plain model's
        reply. If no phrase matches, the prompt gets the hint "sks is the dotted purple mug." before the
        instruction. This works with every model; `learn` with the same identifier, or `relearn`, adds an
        embedding later.

        Args:
            description: a noun phrase with its article; by default derived from the model's own captions.
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
        concept = introduce(
            self.backbone, self.concepts, _with_loaded_pictures(lesson), head, description=description
        )
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
        """Learn an embedding for this model for a concept that was learned for another one; its head is kept.

        Captions, questions and settings are those of its recipe. Embeddings for other models are kept too:
        `vlm.relearn(folder).save(folder)`.

        Args:
            concept: the concept or its folder.
            images: the photos; by default those kept in its folder. The recipe's captions and questions are
                matched to them by file name, or by order if the names differ.
            captions, questions, settings: each replaces all of the recipe's; see `learn`. Captions that were
                written by a model are written again by this one.
            negatives: see `learn`; used if the head has to be fitted again because its encoder's weights
                changed.
            progress: show a progress bar.

        Raises: as `Concept.load` and `learn`; InputError also if no photos are given or kept.
        """
        as_settings(settings)  # report invalid settings before anything else
        try:
            known = as_in_library(concept, self.concepts)
        except MissingFileError as error:
            if concept not in self.concepts:
                raise
            raise MissingFileError(
                f"There is no concept folder {concept}, only a concept {concept!r} in this library.",
                got=f"the identifier {concept!r}",
                expected="a concept or its folder",
                fix=f"pass the concept: vlm.relearn(vlm.concepts[{concept!r}])",
            ) from error
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
        """Correct a detection: state whether a picture shows a concept. The head is updated at once.

        The training photos are not needed and are still recognized afterwards; if the correction conflicts
        with them, the result's `held` is False. The correction is stored when the concept is saved again, as
        features of the picture, not as the picture itself.

        Args:
            image: the picture.
            identifier: identifier of the concept.
            present: True if the picture shows it, False if not, None to withdraw an earlier correction.
            box: left, top, right, bottom in pixels, if the correction concerns only this part.

        Returns:
            What has changed; its `undo()` reverts the correction.

        Raises:
            UnknownConceptError: there is no such concept.
            InputError: its folder is from an older release, or it is unclear which of several faces is meant.
        """
        return self.concepts.correct(image, identifier, present=present, box=box)


def _with_loaded_pictures(lesson: Lesson) -> LoadedLesson:
    """The lesson with its pictures loaded; no code after this opens a picture file."""
    negatives = None if lesson.negatives is None else load_images(lesson.negatives)
    return LoadedLesson(**{**vars(lesson), "images": load_images(lesson.images), "negatives": negatives})


def _as_library(given: ConceptLibrary | str | PathLike[str] | None, *, device: str) -> ConceptLibrary:
    """The library that was given, loaded if it is a path, and empty if it is None.

    Raises:
        MissingFileError, ConceptFileError: see `ConceptLibrary.load`.
        InputError: it is neither a library nor a path.
    """
    if isinstance(given, ConceptLibrary):
        return given
    if given is not None and not isinstance(given, str | PathLike):
        raise InputError(
            "Invalid concept library.",
            got=type(given).__name__,
            expected="a ConceptLibrary, or a folder of concept folders",
            fix="pass single concepts or their folders as ConceptLibrary([...])",
        )
    return ConceptLibrary.load(given, device=device) if given else ConceptLibrary(device=device)
