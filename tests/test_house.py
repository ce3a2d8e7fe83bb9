"""The package keeps the rules of its house (.github/CONTRIBUTING.md) that `lint-imports` cannot see."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "myvlm"
SOURCES = {file.relative_to(PACKAGE).as_posix(): file for file in PACKAGE.rglob("*.py")}
FILES = {name: file.read_text(encoding="utf-8") for name, file in SOURCES.items()}
TREES = {file: ast.parse(text) for file, text in FILES.items()}

LONGEST, FULLEST = 400, 12
FAMILIES = "backbones/families"

BEHIND = ("speaking/", "learning/", "concepts/", "results.py", "heads/", "backbones/")
DOORS = {
    "speaking/speaker.py",  # half of `MyVLM`
    "concepts/library.py",
    "concepts/concept.py",  # photos to keep beside it
    "concepts/notebook.py",  # and those that were kept
    "heads/fitted.py",
    "heads/objects/head.py",
    "heads/objects/everyday.py",  # the photos that the package brings
    "heads/faces/head.py",
    "heads/people/head.py",
    "results.py",  # a picture of a reply, when it is asked for
}


def imported(file: str) -> set[str]:
    """The names that a file takes from files of the package, in functions too."""
    nodes = [node for node in ast.walk(TREES[file]) if isinstance(node, ast.ImportFrom)]
    return {name.name for node in nodes if str(node.module).startswith("myvlm") for name in node.names}


def test_no_file_is_long_and_no_room_full() -> None:
    assert [file for file, text in FILES.items() if len(text.splitlines()) > LONGEST] == []
    rooms = defaultdict(list)
    for file in FILES:
        rooms[Path(file).parent.as_posix()].append(file)
    assert FAMILIES in rooms
    assert [room for room, own in rooms.items() if len(own) > FULLEST and room != FAMILIES] == []


def test_no_two_classes_have_one_name() -> None:
    homes = defaultdict(list)
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(file)
    assert homes["MyVLM"] == ["api.py"]
    assert {name: own for name, own in homes.items() if len(own) > 1} == {}


def test_no_file_takes_a_private_name_of_another() -> None:
    taken = {file: [name for name in imported(file) if name.startswith("_")] for file in FILES}
    assert {file: names for file, names in taken.items() if names} == {}


def test_behind_the_doors_no_picture_is_read() -> None:
    reading = {file for file in FILES if imported(file) & {"load_image", "load_images"}}
    assert {file for file in reading if file.startswith(BEHIND)} == DOORS
