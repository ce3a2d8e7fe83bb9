"""Many pictures in one call: an unusable one is reported, and finished replies are kept."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from myvlm import MyVLM, Reply
from myvlm.backbones.families.llava import LlavaBackbone
from myvlm.errors import ImageError, InputError, MissingFileError
from myvlm.speaking.batches import AT_ONCE
from myvlm.tinyworld import sample_picture
from tests.support.errors import check_said

STRIP = (1210, 6)


@pytest.fixture
def album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """More files than can be open at once, with two different pictures."""
    monkeypatch.chdir(tmp_path)
    files = [f"{number}.png" for number in range(AT_ONCE + 3)]
    for number, file in enumerate(files):
        sample_picture(number % 2).save(file)
    return files


@pytest.fixture
def no_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded model as if its processor did not accept very narrow pictures."""
    for name in ("encode", "_replies"):
        method = getattr(LlavaBackbone, name)

        def picky(self: Any, images: list[Image.Image], *others: Any, method: Any = method) -> Any:
            if any(image.width > 200 * image.height for image in images):
                raise ValueError("absolute aspect ratio must be smaller than 200")
            return method(self, images, *others)

        monkeypatch.setattr(LlavaBackbone, name, picky)


@pytest.mark.usefixtures("no_strips")
@pytest.mark.parametrize("ask", [False, True])
def test_errors_that_are_kept_stand_in_the_place_of_replies(vlm: MyVLM, album: list[str], ask: bool) -> None:
    def said(images: Any, errors: Any = "keep") -> Any:
        if ask:
            return vlm.ask(images, "where is it ?", errors=errors, max_new_tokens=4)
        return vlm.caption(images, errors=errors, max_new_tokens=4)

    right = said(album[:2], "raise")
    Image.new("RGB", STRIP).save(album[3])
    Image.new("RGB", STRIP).save(album[4])
    Path(album[17]).write_bytes(b"no picture")
    Path(album[18]).unlink()
    wrong = {3: "cannot process", 4: "cannot process", 17: "cannot be read", 18: "There is no file"}
    replies = said([*album, np.zeros((0, 0, 3), np.uint8)])
    assert len(replies) == len(album) + 1
    for place, reply in enumerate(replies[:-1]):
        assert isinstance(reply, Reply)
        assert str(reply.picture) == album[place]
        if place in wrong:
            assert isinstance(reply.error, ImageError | MissingFileError)
            check_said(reply.error)
            assert album[place] in reply.error.what
            assert wrong[place] in reply.error.what
            assert (str(reply), reply.seen) == ("", ())
            assert album[place] in repr(reply)
            assert album[place] in reply._repr_html_()
        else:
            assert reply.error is None
            assert reply.token_ids == right[place % 2].token_ids
    assert replies[3].image.size == STRIP
    with pytest.raises(ImageError, match=r"17\.png"):
        _ = replies[17].image
    assert isinstance(replies[-1].error, ImageError)
    assert replies[-1].picture is None
    with pytest.raises(ImageError, match=r"images\[19\]"):
        _ = replies[-1].image
    alone = said("gone.png")
    assert isinstance(alone, Reply)
    assert isinstance(alone.error, MissingFileError)


@pytest.mark.usefixtures("no_strips")
def test_an_error_that_is_raised_has_what_was_done(vlm: MyVLM, album: list[str]) -> None:
    Image.new("RGB", STRIP).save(album[17])
    with pytest.raises(ImageError, match=r"^The model cannot process 17\.png") as caught:
        vlm.caption(album, max_new_tokens=4)
    assert caught.value.number == 17
    assert [str(reply.picture) for reply in caught.value.replies] == album[:AT_ONCE]
    assert all(reply.text for reply in caught.value.replies)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.number, len(again.replies), str(again)) == (17, AT_ONCE, str(caught.value))


def test_a_broken_file_is_found_before_the_first_is_described(
    vlm: MyVLM, album: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(album[17]).write_bytes(b"no picture")
    monkeypatch.setattr(vlm.backbone, "generate", lambda *_, **__: pytest.fail("before all were read"))
    with pytest.raises(ImageError, match=r"17\.png") as caught:
        vlm.caption(album)
    assert (caught.value.number, caught.value.replies) == (17, ())


def test_what_is_no_picture_at_all_is_raised(vlm: MyVLM) -> None:
    with pytest.raises(InputError, match=r"^images\[1\] is not a picture"):
        vlm.caption([sample_picture(0), 3], errors="keep")  # type: ignore[list-item]
    with pytest.raises(InputError, match=r"(?s)got: +'ignore'.*errors="):
        vlm.caption(sample_picture(0), errors="ignore")  # type: ignore[call-overload]
