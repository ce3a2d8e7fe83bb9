"""Photos stored with an EXIF orientation, and their metadata read by an independent program, exiv2."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from myvlm.album.journal import Row, Seen
from myvlm.album.regions import read_stored
from myvlm.boxes import Box

UNTURNED = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
"""The Pillow transposition that undoes each EXIF Orientation."""

needs_exiftool = pytest.mark.skipif(
    not (find_spec("exiftool") and shutil.which("exiftool")),
    reason='needs exiftool: apt install libimage-exiftool-perl and pip install "myvlm[album]"',
)
needs_exiv2 = pytest.mark.skipif(not shutil.which("exiv2"), reason="needs exiv2: apt install exiv2")


def save_turned(picture: Image.Image, file: Path, turn: int) -> None:
    """Store the picture with an EXIF orientation, so that it looks as given when that is applied."""
    exif = Image.Exif()
    exif[0x0112] = turn
    undo = UNTURNED[turn]
    stored = picture if undo is None else picture.transpose(Image.Transpose(undo))
    stored.save(file, exif=exif)


def row(file: Path, turn: int, *seen: tuple[str, Box | None], text: str = "", unsure: bool = False) -> Row:
    """The album's row of a photo that was saved by `save_turned`."""
    with Image.open(file) as opened:
        size = read_stored(file).size if opened.format == "TIFF" else opened.size  # Pillow rotates TIFFs
    found = tuple(Seen(name=name, probability=0.9, box=box, unsure=unsure) for name, box in seen)
    return Row(file=file, stamp=(0, 0), by="test", size=size, turn=turn, text=text, seen=found)


def xmp(file: Path) -> dict[str, str]:
    """All XMP properties of a file, as exiv2 reads them; empty if there are none."""
    done = subprocess.run(["exiv2", "-PXkv", str(file)], capture_output=True, text=True, check=False)
    pairs = (line.split(None, 1) for line in done.stdout.splitlines())
    return {pair[0]: pair[1] if len(pair) > 1 else "" for pair in pairs if pair}


def regions(file: Path) -> dict[str, Box]:
    """The named regions as exiv2 reads them: left, top, right, bottom as fractions of the stored picture."""
    fields: dict[str, dict[str, str]] = defaultdict(dict)
    for key, value in xmp(file).items():
        if found := re.search(r"RegionList\[(\d+)\]/mwg-rs:(?:Area/stArea:)?(\w+)$", key):
            fields[found[1]][found[2]] = value
    boxes = {}
    for one in fields.values():
        x, y, w, h = (float(one[key]) for key in "xywh")
        boxes[one["Name"]] = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    return boxes


def words(file: Path, key: str) -> set[str]:
    """The entries of a list property, such as `Xmp.dc.subject`."""
    return set(xmp(file).get(key, "").split(", ")) - {""}


def digests(folder: Path) -> dict[str, str]:
    return {
        str(one.relative_to(folder)): hashlib.sha256(one.read_bytes()).hexdigest()
        for one in sorted(folder.rglob("*"))
        if one.is_file()
    }
