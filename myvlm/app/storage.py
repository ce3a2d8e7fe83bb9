"""Storage of the page's concepts on disk."""

from __future__ import annotations

from pathlib import Path

from myvlm.concepts import collection, editing
from myvlm.concepts.concept import Concept


class CollectionStorage:
    """Stores the page's concepts in a collection on disk."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def check(self, identifier: str, category: str) -> None:
        """Raise, before anything is learned, if a concept with this identifier cannot be saved."""
        editing.check_can_write(self._folder(identifier, category), identifier)

    def save(self, concept: Concept) -> None:
        """Save a concept to its folder, or to a new one."""
        if concept.folder:
            concept.save(concept.folder)
        else:
            editing.save_new(concept, self._folder(concept.identifier, concept.category))

    def put_aside(self, identifier: str) -> str:
        """Move a concept to the collection's hidden folder of removed concepts; return a message."""
        return f"{identifier} was removed; its folder is now {editing.remove(self.place, identifier)}."

    def erase(self, identifier: str) -> None:
        """Delete a concept for good, and its copies in the folder of removed concepts."""
        editing.erase(self.place, identifier)

    def _folder(self, identifier: str, category: str) -> Path:
        return self.place / collection.default_folder(identifier, category).name
