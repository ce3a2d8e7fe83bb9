"""A fitted head that can be corrected: fitted again, from where it started, to what is kept and was said."""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from myvlm.boxes import Box
from myvlm.errors import InputError
from myvlm.heads.base import check_fitted
from myvlm.heads.examples import CorrectedPicture, Examples
from myvlm.heads.fitted import Encoder, FittedHead
from myvlm.images import ImageSources, LoadedImage


class CorrectableHead(FittedHead[Encoder]):
    """A fitted head that keeps what it was learned from, in `examples_`, and learns from one picture more.

    A subclass sets `examples_` in `fit`, and adds the two hooks at the end. It is None of a head from a file
    that lacks it; `corrected` then raises.
    """

    exclusive: ClassVar[bool] = False
    examples_: Examples | None = None

    def corrected(self, photo: LoadedImage, present: bool, box: Box | None = None) -> Self:
        """A new head that was told whether the picture, or the part of it in the box, shows the concept.

        No photo of the concept is lost by it: where the two cannot be had together, the photos stay found.

        Args:
            photo: the picture.
            present: whether it shows the concept.
            box: left, top, right, bottom in its pixels; None for all of it.

        Raises:
            NotFittedError: before `fit`.
            InputError: the head does not know what it was learned from, or cannot tell what is meant.
            ConceptFileError: the encoder's weights are not those that it was learned with.
        """
        check_fitted(self, "threshold_")
        self.score(photo)  # checks the encoder's weights
        examples = self.known_examples()
        correction = CorrectedPicture(
            picture=photo.file_name,
            digest=photo.digest.hex(),
            present=present,
            box=box,
        )
        return self.refitted(
            examples.with_correction(correction, self._rows_to_learn_from(photo, correction, examples))
        )

    def refitted(self, examples: Examples) -> Self:
        """A new head: what these examples, with the corrections in them, make of where it started."""
        head = copy.copy(self)
        head.examples_ = examples
        head.threshold_ = examples.meta.threshold
        head._take(examples.start)
        head.figures_ = {name: value for name, value in self.figures_.items() if name != "corrections"}
        if examples.corrections:
            head._learn_corrections(examples)
            head.figures_["corrections"] = len(examples.corrections)
        return head

    def known_examples(self) -> Examples:
        """What it was learned from. Raises InputError where its file does not hold it."""
        if self.examples_ is None:
            raise InputError(
                "This concept cannot be corrected: it does not know what it was learned from.",
                got="a concept folder of an older release, without the features of its photos",
                expected="a concept that was learned, or learned again, with this release",
                fix="learn it again from its photos: vlm.relearn(folder, images=[...]), "
                "or `myvlm relearn FOLDER PHOTOS`",
            )
        return self.examples_

    @abstractmethod
    def remembering(self, images: ImageSources, negatives: ImageSources | None = None) -> Self:
        """The same head, which can be corrected: it was learned from these photos when nothing was kept."""

    @abstractmethod
    def _rows_to_learn_from(
        self, photo: LoadedImage, correction: CorrectedPicture, examples: Examples
    ) -> npt.NDArray[np.floating]:
        """n × D: the features of the picture that are to be learned from, and kept."""

    @abstractmethod
    def _learn_corrections(self, examples: Examples) -> None:
        """Change what was learned, which is as it started, by what is said in the examples."""
