"""The package follows rules of .github/CONTRIBUTING.md that `lint-imports` cannot check."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from myvlm import errors
from myvlm.errors import MyVLMError

TESTS = Path(__file__).parent
ROOT = TESTS.parent
PACKAGE = ROOT / "myvlm"
SOURCES = {file.relative_to(PACKAGE).as_posix(): file for file in PACKAGE.rglob("*.py")}
FILES = {name: file.read_text(encoding="utf-8") for name, file in SOURCES.items()}
TREES = {file: ast.parse(text) for file, text in FILES.items()}
CLASSES = {
    node.name: node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
}

LONGEST, FULLEST = 400, 12
FAMILIES = "backbones/families"

BEHIND = ("speaking/", "learning/", "concepts/", "results.py", "heads/", "backbones/")
DOORS = {
    "speaking/speaker.py",  # half of `MyVLM`
    "concepts/library.py",
    "concepts/concept.py",  # photos to save with a concept
    "concepts/notebook.py",  # and saved photos
    "heads/fitted.py",
    "heads/objects/head.py",
    "heads/objects/everyday.py",  # photos that ship with the package
    "heads/faces/head.py",
    "heads/people/head.py",
    "results.py",  # picture of a reply, on request
}


def imported(file: str) -> set[str]:
    """The names that a file imports from files of the package, including imports in functions."""
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


def test_every_public_class_and_function_says_what_it_is() -> None:
    silent = []
    for file, tree in TREES.items():
        own = [node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
        said = {node.name for node in own if ast.get_docstring(node)}  # one overload suffices
        silent += [(file, node.name) for node in own if node.name not in said and node.name[0] != "_"]
    assert len(TREES) > 200
    assert silent == []


def listed(docstring: str, section: str) -> set[str]:
    """The names that a section of a docstring describes."""
    _, _, rest = docstring.partition(f"{section}:\n")
    entries = re.findall(r"^    (\w+(?:, \w+)*): ", re.split(r"^\S", rest, maxsplit=1, flags=re.M)[0], re.M)
    return {name for entry in entries for name in entry.split(", ")}


def owned(node: ast.ClassDef | ast.FunctionDef) -> set[str]:
    """The parameters of a function; parameters, fields, attributes and methods of a class and its bases."""
    inside = list(ast.walk(node.args if isinstance(node, ast.FunctionDef) else node))
    names = {one.arg for one in inside if isinstance(one, ast.arg)}
    if isinstance(node, ast.ClassDef):
        names |= {one.name for one in inside if isinstance(one, ast.FunctionDef)}
        names |= {one.attr for one in inside if isinstance(one, ast.Attribute)}
        names |= {one.target.id for one in node.body if isinstance(one, ast.AnnAssign)
                  if isinstance(one.target, ast.Name)}  # fmt: skip
        bases = {one.id for base in node.bases for one in ast.walk(base) if isinstance(one, ast.Name)}
        names = names.union(*(owned(CLASSES[base]) for base in bases if base in CLASSES))
    return names


def test_docstrings_describe_parameters_and_attributes_that_exist() -> None:
    nodes = [(file, node) for file, tree in TREES.items() for node in ast.walk(tree)]
    described = [
        (file, node, name)
        for file, node in nodes
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
        for section in ("Args", "Attributes")
        for name in listed(ast.get_docstring(node) or "", section)
    ]
    assert len(described) > 1000
    assert [(file, node.name, name) for file, node, name in described if name not in owned(node)] == []


def test_no_file_takes_a_private_name_of_another() -> None:
    taken = {file: [name for name in imported(file) if name.startswith("_")] for file in FILES}
    assert {file: names for file, names in taken.items() if names} == {}


def test_every_error_says_what_was_got_what_was_expected_and_what_to_do() -> None:
    kinds = {
        name for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, MyVLMError)
    }
    raised = [
        (file, node.lineno, {keyword.arg for keyword in node.keywords})
        for file, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds
    ]
    assert len(raised) > 200
    lacking = [(file, line) for file, line, said in raised if not {"got", "expected", "fix"} <= said]
    assert lacking == [], "pass got=, expected= and fix="


def test_behind_the_doors_no_picture_is_read() -> None:
    reading = {file for file in FILES if imported(file) & {"load_image", "load_images"}}
    assert {file for file in reading if file.startswith(BEHIND)} == DOORS


def test_texts_and_pictures_and_their_tests_import_no_torch() -> None:
    files = [*PACKAGE.glob("files/*.py"), *PACKAGE.glob("plugins/*.py"), *PACKAGE.glob("display/*.py")]
    files += [PACKAGE / name for name in ("text.py", "images.py", "boxes.py", "errors.py")]
    files += [TESTS / name for name in ("test_text.py", "test_images.py", "conftest.py")]
    files += TESTS.glob("plugins/test_*.py")
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    code = f"import sys; {'; '.join(f'import {name}' for name in names)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {"myvlm.text", "tests.test_text"} <= set(done.stdout.split())
    assert not {"torch", "torchvision", "transformers", "open_clip"} & set(done.stdout.split())
