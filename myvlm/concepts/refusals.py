"""What a library refuses, in words: a word that is another concept's, an identifier that nobody has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from myvlm.concepts.concept import Concept
from myvlm.errors import ConceptExistsError, UnknownConceptError
from myvlm.text import fold


def word_taken(word: str, by: Concept) -> ConceptExistsError:
    """The error where a word belongs to a concept that is there already."""
    learned = f", which was learned as {by.spoken!r}" if by.spoken != by.identifier else ""
    return ConceptExistsError(
        f"The word {word!r} is taken.",
        got=repr(by.identifier) + learned,
        expected="a word that differs from those of the others in more than upper and lower case",
        fix="choose another identifier, or learn one of the two again with another word",
    )


def word_twice(concept: Concept, taken: Mapping[str, Concept]) -> ConceptExistsError:
    """The error where one of the concepts that are added with it has a word of it.

    Args:
        taken: whose each word is, folded.
    """
    word = next(one for one in (concept.identifier, concept.spoken) if fold(one) in taken)
    return ConceptExistsError(
        f"Two of the concepts have the word {word!r}.",
        got=" and ".join(str(one.folder or one.identifier) for one in (taken[fold(word)], concept)),
        expected="words of its own for each concept: what it is called, and what it was learned with",
        fix="learn one of the two again with another word, or leave it out",
    )


def unknown(identifier: str, known: Iterable[str]) -> UnknownConceptError:
    """What is raised of a concept that is not among those."""
    names = ", ".join(known)
    return UnknownConceptError(
        f"No concept {identifier!r} is in this library.",
        got=repr(identifier),
        expected=f"one of {names}" if names else "the library is empty",
        fix="add it first, or check the spelling",
    )
