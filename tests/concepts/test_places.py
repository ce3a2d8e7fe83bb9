"""Impossible paths: link loops, a deleted working folder, unreadable files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from myvlm import Concept, ConceptLibrary, MyVLMError
from myvlm.errors import ConceptFileError, ImageError, MissingFileError, NotWritableError
from myvlm.files.reading import read_json
from myvlm.images import load_images
from tests.support.errors import check_said
from tests.support.taught import by_hand

NOBODY = 65534


def in_child(work: Callable[[], Any]) -> str:
    """Run `work` in a process of its own and return its error as text; it must be one of ours."""
    read, write = os.pipe()
    if not os.fork():
        try:
            work()
            said = "nothing was refused"
        except MyVLMError as error:
            check_said(error)
            said = f"{type(error).__name__} {error}"
        except BaseException as error:
            said = f"raw: {error!r}"
        os.write(write, said.encode()[:4000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as opened:
        said = opened.read().decode(errors="replace")
    os.wait()
    return said


def test_links_in_a_loop(tmp_path: Path, concept: Concept) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(MissingFileError, match="no concept folder"):
        Concept.load(loop)
    with pytest.raises(NotWritableError, match="is a broken link"):
        concept.save(loop)
    assert [one.name for one in tmp_path.iterdir()] == ["loop"]
    with pytest.raises(MissingFileError):
        load_images(loop)
    concept.save(tmp_path / "sks-mug")
    assert list(ConceptLibrary.load(tmp_path)) == ["sks"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing can be forked here; run it on Linux")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_working_folder_that_is_gone(tmp_path: Path) -> None:
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("There is no file 1.png", lambda: load_images("1.png")),
        ("The path sks-mug cannot be resolved", lambda: by_hand().save("sks-mug")),
        ("The path sks-mug cannot be resolved", lambda: Concept.load("sks-mug")),
        ("There is no folder", lambda: ConceptLibrary.load("concepts")),
        ("There is no file x.json", lambda: read_json(Path("x.json"), expected="texts")),
    ]
    for number, (expected, call) in enumerate(calls):
        place = tmp_path / f"{number}"
        place.mkdir()

        def gone(place: Path = place, call: Callable[[], Any] = call) -> Any:
            os.chdir(place)
            place.rmdir()
            return call()

        assert in_child(gone).startswith(f"MissingFileError {expected}")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing can be forked here; run it on Linux")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_what_may_not_be_read(tmp_path: Path, concept: Concept) -> None:
    tmp_path.chmod(0o755)
    for above in tmp_path.parents[:3]:  # pytest-xdist workers have their own parent folder
        above.chmod(0o755)
    concept.save(tmp_path / "library" / "sks-mug")
    concept.save(tmp_path / "closed" / "sks-mug")
    (tmp_path / "library" / "sks-mug" / "concept.json").chmod(0)
    (tmp_path / "closed").chmod(0)
    calls: dict[str, Callable[[], Any]] = {
        "library/sks-mug cannot be read": lambda: Concept.load(tmp_path / "library" / "sks-mug"),
        "sks-mug cannot be read": lambda: ConceptLibrary.load(tmp_path / "library"),
        "closed cannot be read": lambda: ConceptLibrary.load(tmp_path / "closed"),
        "closed/sks-mug cannot be read": lambda: Concept.load(tmp_path / "closed" / "sks-mug"),
    }
    try:
        for expected, call in calls.items():

            def as_nobody(call: Callable[[], Any] = call) -> Any:
                if os.geteuid() == 0:  # root may read everything
                    os.setgid(NOBODY)
                    os.setuid(NOBODY)
                return call()

            said = in_child(as_nobody)
            assert said.startswith(ConceptFileError.__name__), said
            assert expected in said
            assert "permissions" in said
    finally:
        (tmp_path / "closed").chmod(0o755)


def test_a_picture_that_was_closed(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "1.png")
    with Image.open(tmp_path / "1.png") as closed:
        pass
    with pytest.raises(ImageError, match=r"(?s)images\[0\] cannot be read.*before its file is closed"):
        load_images(closed)
