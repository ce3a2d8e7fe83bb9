"""Errors that a library raises for words that are taken and identifiers that are unknown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from myvlm.concepts.concept import Concept
from myvlm.errors import ConceptExistsError, UnknownConceptError
from myvlm.text import fold

MAX_LISTED, MAX_COMPARED = 20, 1000
"""The most identifiers that an error lists, and that are searched for similar ones."""


def word_taken(word: str, by: Concept) -> ConceptExistsError:
    """Return the error for a word that already belongs to a concept of the library."""
    learned = f", learned as {by.spoken!r}" if by.spoken != by.identifier else ""
    return ConceptExistsError(
        f"The word {word!r} is already in use.",
        got=repr(by.identifier) + learned,
        expected="a word that no other concept uses, in upper or lower case",
        fix=f"choose another identifier; or remove that concept first: concepts.remove({by.identifier!r}); "
        f"or learn it again: vlm.relearn(vlm.concepts[{by.identifier!r}], photos)",
    )


def word_twice(concept: Concept, taken: Mapping[str, Concept]) -> ConceptExistsError:
    """Return the error for a concept that shares a word with another one added in the same call.

    Args:
        concept: the later of the two.
        taken: case-folded word → concept, of the concepts before it.
    """
    word = next(one for one in (concept.identifier, concept.spoken) if fold(one) in taken)
    return ConceptExistsError(
        f"Two concepts use the word {word!r}.",
        got=" and ".join(str(one.folder or one.identifier) for one in (taken[fold(word)], concept)),
        expected="identifiers and learned words that no other concept uses",
        fix="learn one of the two again with another identifier, or omit it",
    )


def unknown_identifier(
    identifier: str,
    known: Iterable[str],
    *,
    place: str = "this library",
    fix: str = "add it first, or check the spelling",
) -> UnknownConceptError:
    """Return the error for an identifier that is not among the known ones, with those spelled similarly.

    >>> print(unknown_identifier("skz", ["ohwx", "sks"]))
    There is no concept 'skz' in this library.
      got:      'skz'
      expected: one of ohwx, sks
      fix:      write sks; or add it first, or check the spelling
    """
    names = list(known)
    near = get_close_matches(str(identifier), names[:MAX_COMPARED], n=3)
    listed = ", ".join(names[:MAX_LISTED])
    more = f" and {len(names) - MAX_LISTED:,} more" if names[MAX_LISTED:] else ""
    return UnknownConceptError(
        f"There is no concept {identifier!r} in {place}.",
        got=repr(identifier),
        expected=f"one of {listed}{more}" if names else "none: it is empty",
        fix=f"write {' or '.join(near)}; or {fix}" if near else fix,
    )
