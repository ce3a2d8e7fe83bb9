"""Base class of fitted heads that a user can correct.

A correction refits the head, from its state before any correction, to kept features and all corrections.
"""

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
    """A fitted head that keeps the features it was learned from, so that corrections can be learned later.

    A subclass sets `examples_` in `fit`, and implements the two hooks at the end. `examples_` is None for a
    head from a file that lacks it; `corrected` then raises.
    """

    exclusive: ClassVar[bool] = False
    examples_: Examples | None = None

    def corrected(self, photo: LoadedImage, present: bool, box: Box | None = None) -> Self:
        """Return a new head that has learned whether a picture, or a part of it, shows the concept.

        The concept stays recognized in its training photos: where the correction conflicts with that, the
        photos win.

        Args:
            photo: the picture.
            present: whether it shows the concept.
            box: left, top, right, bottom in pixels of the picture; None for the whole picture.

        Raises:
            NotFittedError: before `fit`.
            InputError: the head's file does not hold its examples, or the part of the picture that is meant
                cannot be determined.
            ConceptFileError: the encoder's weights are not those that the head was learned with.
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
        """Return a new head, refitted from the start state in the examples to all corrections in them."""
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
        """Return the examples the head was learned from. Raises InputError if its file does not hold them."""
        if self.examples_ is None:
            raise InputError(
                "This concept cannot be corrected: the features of its photos are missing.",
                got="a concept folder of an older release, without the features of its photos",
                expected="a concept that was learned or relearned with this release",
                fix="relearn it from its photos: vlm.relearn(folder, images=[...]), "
                "or `myvlm relearn FOLDER PHOTOS`",
            )
        return self.examples_

    @abstractmethod
    def remembering(self, images: ImageSources, negatives: ImageSources | None = None) -> Self:
        """Return this head with examples made from its photos; for a head whose file does not hold them."""

    @abstractmethod
    def _rows_to_learn_from(
        self, photo: LoadedImage, correction: CorrectedPicture, examples: Examples
    ) -> npt.NDArray[np.floating]:
        """Return the n × D features of the picture that the correction is learned from and that are kept."""

    @abstractmethod
    def _learn_corrections(self, examples: Examples) -> None:
        """Apply the corrections in the examples to this head, whose fitted attributes are in start state."""
