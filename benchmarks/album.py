"""Album of thousands of photos: reading speed and memory, page load time, and correct names in metadata.

    python benchmarks/album.py [--photos 10000] [--inside 1000] [--spoken 40] [--page 10000] [--folder DIR]

The album consists of copies of tinyworld's pictures in many sizes, in all eight EXIF orientations and four
formats; every tenth photo has a sidecar of another program. Detections are the ground truth of the scenes:
the album is measured, not recognition. So photos are read, downscaled and stored as by `myvlm album`, but
without a model; `--spoken` sets how many of them `tinyworld/llava` captions as well.

Names are written to sidecars of all photos, and into the files of `--inside` of them. exiv2 reads the
regions, which are compared with the true boxes, as fractions of the picture's sides. A second run must write
nothing, and erasing must restore all files byte for byte. The page is opened in Chromium; if there are fewer
than `--page` rows, they are repeated. The last line is one JSON object; the exit code is 1 if a bound is
exceeded.

With `--folder`, the same command resumes where it was stopped: figures are stored there after each stage.
`memory_grown` refers to the last `memory_photos` photos that were read in one run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import psutil
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from myvlm import MyVLM, Reply
from myvlm.album.exiftool import exiftool
from myvlm.album.journal import Journal, Row
from myvlm.album.names import Into, erase_names, write_names
from myvlm.album.page import AlbumFiles, ShownConcept
from myvlm.album.reading import read_album, unread
from myvlm.boxes import Box
from myvlm.files.writing import write_atomically
from myvlm.heads import Detection
from myvlm.images import load_images
from myvlm.tinyworld import few_shot
from myvlm.tinyworld.fewshot import pictures
from myvlm.tinyworld.world.scenes import Scene

UNTURNED = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
"""EXIF orientation → the Pillow transposition that undoes it."""
FORMATS = ("jpg",) * 7 + ("png", "webp", "tif")
THEIRS = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:subject><rdf:Bag>
<rdf:li>holiday</rdf:li></rdf:Bag></dc:subject></rdf:Description></rdf:RDF></x:xmpmeta>
"""
BOUNDS = {
    "worst_region": 0.01,
    "written_again": 0,
    "not_as_before": 0,
    "page_seconds": 3.0,
    "memory_grown": 1.25,
}
FIELD = re.compile(r"^(.*?)\s*Xmp\.mwg-rs\..*RegionList\[(\d+)\]/mwg-rs:(?:Area/stArea:)?(\w+)\s+(.*)$")
"""A line of exiv2's output: file, index of the region, name of the field, value."""
Truth = dict[Path, dict[str, Box]]
console = Console(stderr=True)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--photos", type=int, default=10_000, help="in the album")
    options.add_argument("--inside", type=int, default=1_000, help="of them with names in the files too")
    options.add_argument("--spoken", type=int, default=40, help="of them given to the model")
    options.add_argument("--page", type=int, default=10_000, help="photos of the page that is opened")
    options.add_argument(
        "--folder", type=Path, help="where the album is made; a temporary folder if not given"
    )
    chosen = options.parse_args()
    folder = chosen.folder or Path(tempfile.mkdtemp(prefix="myvlm-album-"))
    try:
        figures = Run(folder, chosen.photos).measure(chosen.inside, chosen.spoken, chosen.page)
    finally:
        if not chosen.folder:
            shutil.rmtree(folder)
    failed = [name for name, most in BOUNDS.items() if figures.get(name, most) > most]
    table = Table("figure", "measured", "at most")
    for name, value in figures.items():
        table.add_row(name, str(value), str(BOUNDS.get(name, "")))
    Console().print(table)
    print(json.dumps({**figures, "failed": failed}))
    return int(bool(failed))


class Run:
    """The stages of a run in a folder; the figures of finished stages are stored and not measured again."""

    def __init__(self, folder: Path, photos: int) -> None:
        self.folder, self.album, self.place = folder, folder / "album", AlbumFiles(folder / "album.html")
        self.truth = make(self.album, photos)
        names = sorted({name for boxes in self.truth.values() for name in boxes})
        self.concepts = [ShownConcept(name, name, "object") for name in names]
        self._kept = folder / "stages.json"
        self._stages: dict[str, Any] = json.loads(self._kept.read_text()) if self._kept.exists() else {}
        self.before = self._stage("before", lambda: digests(self.album))

    def measure(self, inside: int, spoken: int, page: int) -> dict[str, Any]:
        """Measure everything.

        Args:
            inside: number of photos whose files get names, after all photos' sidecars.
            spoken: number of photos that a model captions.
            page: number of rows of the page.
        """
        photos = list(self.truth)
        figures: dict[str, Any] = {"photos": len(photos), "load": [round(os.getloadavg()[0], 1)]}
        figures |= self._stage("read", lambda: read(self.truth, self.place))
        rows = list(Journal(self.place.journal, "truth").rows(photos))
        figures |= self._stage("page", lambda: self._page(rows, max(page, len(rows))))
        worst: dict[str, float] = {}
        for into, some in (("sidecars", rows), ("files", rows[:inside])):
            figures |= self._stage(f"write {into}", partial(self._write, into, some))
            for turn, error in self._stage(f"regions {into}", partial(self._regions, into, some)).items():
                worst[turn] = max(worst.get(turn, 0.0), error)
            for name, work in (("written_again", self._write_again), ("not_as_before", self._erase)):
                found = self._stage(f"{name} {into}", partial(work, into, some))
                figures[name] = figures.get(name, 0) + found
        figures["worst_region"] = max(worst.values())
        figures["worst_region_by_turn"] = dict(sorted(worst.items()))
        if spoken:
            seconds = self._stage(f"spoken {spoken}", lambda: speak(photos[:spoken], self.folder))
            figures["spoken_seconds_a_photo"] = seconds
        figures["load"].append(round(os.getloadavg()[0], 1))
        return figures

    def _stage(self, name: str, work: Callable[[], Any]) -> Any:
        if name not in self._stages:
            console.print(f"{time.strftime('%H:%M:%S')} {name}")
            self._stages[name] = work()
            write_atomically(self._kept, json.dumps(self._stages), what="figures", option="--folder")
        return self._stages[name]

    def _page(self, rows: Sequence[Row], count: int) -> dict[str, Any]:
        self.place.write([rows[at % len(rows)] for at in range(count)], self.concepts, title="Album")
        size = round(self.place.page.stat().st_size / 2**20, 2)
        return {"page_photos": count, "page_mib": size, **opened(self.place.page)}

    def _write(self, into: Into, rows: Sequence[Row]) -> dict[str, Any]:
        begun, changed = time.perf_counter(), 0
        with exiftool() as tool:
            made = write_names(tool, rows, self.concepts, into=into, captions=False)
            for one in track(made, f"writing {into}", len(rows), console=console):
                changed += one.changed
        took = 1000 * (time.perf_counter() - begun) / max(1, changed)
        written = sum(digest != self.before.get(name) for name, digest in digests(self.album).items())
        return {f"{into}_ms_a_photo": round(took, 1), f"{into}_written": written}

    def _regions(self, into: Into, rows: Sequence[Row]) -> dict[str, float]:
        """EXIF orientation → maximum error of its regions against the true boxes."""
        worst: dict[str, float] = defaultdict(float)
        for turn, error in errors(rows, self.truth, into):
            worst[str(turn)] = max(worst[str(turn)], round(error, 6))
        return worst

    def _write_again(self, into: Into, rows: Sequence[Row]) -> int:
        written = digests(self.album)
        with exiftool() as tool:
            again = write_names(tool, rows, self.concepts, into=into, captions=False)
            twice = sum(one.changed or bool(one.error) for one in again)
        return twice + sum(written[name] != digest for name, digest in digests(self.album).items())

    def _erase(self, into: Into, rows: Sequence[Row]) -> int:
        """Erase all names; number of files that differ from those before any name was written."""
        with exiftool() as tool:
            made = erase_names(tool, list(self.truth), [one.name for one in self.concepts])
            for _ in track(made, f"erasing {into}", len(rows), console=console):
                pass
        after = digests(self.album)
        return sum(self.before.get(name) != after.get(name) for name in self.before.keys() | after.keys())


def make(album: Path, photos: int) -> Truth:
    """Write the album; returns each photo's true boxes by name, in pixels of the upright picture."""
    kit = few_shot(0, photos=4, tests=6)
    scenes: Sequence[Scene] = [*kit.present, *kit.other]
    shown, truth = pictures(scenes), {}
    for number in track(range(photos), "making the album", console=console):
        scene, picture = scenes[number % len(scenes)], shown[number % len(scenes)]
        width, height = 160 + 37 * (number % 13), 160 + 29 * (number % 11)
        turn = number % 8 + 1
        file = album / f"{2010 + number % 12}" / f"IMG_{number:05d}.{FORMATS[number % len(FORMATS)]}"
        if not file.exists():
            save(picture.resize((width, height)), turn, file)
            if number % 10 == 9:
                file.with_name(f"{file.name}.xmp").write_text(THEIRS)
        across, down = width / picture.width, height / picture.height
        truth[file] = {}
        for thing in scene.things:
            left, top, right, bottom = thing.box
            name = kit.identifier if thing.look == kit.look else thing.look.category
            truth[file][name] = (left * across, top * down, right * across, bottom * down)
    return truth


def save(seen: Image.Image, turn: int, file: Path) -> None:
    """Store a picture rotated, with the EXIF tag that undoes it; atomically, by renaming a temporary file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    exif, undo = Image.Exif(), UNTURNED[turn]
    exif[0x0112] = turn
    beside = file.with_suffix(f".part{file.suffix}")
    (seen if undo is None else seen.transpose(Image.Transpose(undo))).save(beside, exif=exif)
    beside.replace(file)


class Truthful:
    """Stand-in for a model: returns the true boxes of a photo as detections."""

    backbone = SimpleNamespace(name="truth", fingerprint=lambda: "")

    def __init__(self, truth: Truth) -> None:
        self.truth = truth
        self.concepts: dict[str, Any] = {}

    def caption(self, files: Sequence[Path], **_: Any) -> list[Reply]:
        return [self._reply(file) for file in files]

    def _reply(self, file: Path) -> Reply:
        [photo] = load_images(file)
        boxes = self.truth[file]
        return Reply(
            f"{' next to '.join(boxes)}.",
            [Detection(name, 0.99, True, box) for name, box in boxes.items()],
            photo.image,
        )


def read(truth: Truth, place: AlbumFiles) -> dict[str, Any]:
    """Read the album as `myvlm album` does; `memory_grown` compares the last fifth with the first."""
    journal, process, used = Journal(place.journal, "truth"), psutil.Process(), []
    vlm: Any = Truthful(truth)
    begun, busy = time.perf_counter(), time.process_time()
    todo = unread(list(truth), journal, place)
    made = read_album(vlm, todo, journal, place, prompt=None, batch=8)
    for _ in track(made, "reading", len(todo), console=console):
        used.append(process.memory_info().rss)
    fifth = max(1, len(used) // 5)
    return {
        "read_ms_a_photo": round(1000 * (time.perf_counter() - begun) / len(todo), 1),
        "read_cpu_ms_a_photo": round(1000 * (time.process_time() - busy) / len(todo), 1),
        "memory_mib": round(max(used) / 2**20),
        "memory_grown": round(max(used[-fifth:]) / max(used[:fifth]), 3),
        "memory_photos": len(todo),
        "read_again": len(unread(list(truth), Journal(place.journal, "truth"), place)),
    }


def opened(page: Path) -> dict[str, float]:
    """Seconds until the first pictures are shown, and of the whole browser process; medians of three runs."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        console.print("no Chromium: the page was not opened")
        return {}
    ready, whole = [], []
    for _ in range(3):
        begun = time.perf_counter()
        words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.as_uri()]
        said = subprocess.run(words, capture_output=True, text=True, check=True, timeout=300).stdout
        whole.append(time.perf_counter() - begun)
        [found] = re.findall(r'data-ready="(\d+)"', said)
        ready.append(int(found) / 1000)
    return {"page_seconds": round(median(ready), 2), "browser_seconds": round(median(whole), 2)}


def errors(rows: Sequence[Row], truth: Truth, into: Into) -> Iterable[tuple[int, float]]:
    """Yield, for every true box, the photo's orientation and the maximum error of its region's edges.

    Errors are fractions of the picture's sides; a region that was not written or cannot be read has error 1.
    """
    for start in range(0, len(rows), 200):
        some = rows[start : start + 200]
        targets = {
            r.file: r.file if into == "files" else r.file.with_name(f"{r.file.name}.xmp") for r in some
        }
        known = regions(list(targets.values()))
        for row in some:
            found, stored = known[str(targets[row.file])], row.stored
            for name, box in truth[row.file].items():
                true, got = turned(box, stored.displayed_size, row.turn), found.get(name)
                pairs = zip(true, got, strict=True) if got else ()
                yield row.turn, max((abs(a - b) for a, b in pairs), default=1.0)


def turned(box: Box, size: tuple[int, int], turn: int) -> Box:
    """A box of the upright picture in the stored one, as fractions of its sides.

    Computed by transposing a mask with Pillow instead of by formulas.
    """
    width, height = size
    parts = box[0] / width, box[1] / height, box[2] / width, box[3] / height
    return turned_mask(tuple(round(1000 * part) for part in parts), turn)


@cache
def turned_mask(edges: tuple[int, ...], turn: int) -> Box:
    """`turned` for a box in thousandths, cached: pictures of all sizes have the same few boxes."""
    mask = Image.new("L", (1000, 1000))
    mask.paste(255, edges)
    undo = UNTURNED[turn]
    bounds = (mask if undo is None else mask.transpose(Image.Transpose(undo))).getbbox() or (0, 0, 0, 0)
    left, top, right, bottom = (edge / 1000 for edge in bounds)
    return left, top, right, bottom


def regions(files: Sequence[Path]) -> dict[str, dict[str, Box]]:
    """File → name → region as exiv2 reads it: edges as fractions of the stored picture's sides."""
    done = subprocess.run(["exiv2", "-PXkv", *map(str, files)], capture_output=True, text=True, check=False)
    fields: dict[str, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for line in done.stdout.splitlines():
        if found := FIELD.search(line):
            name = found[1] or str(files[0])
            fields[name][found[2]][found[3]] = found[4]
    boxes: dict[str, dict[str, Box]] = defaultdict(dict)
    for file, listed in fields.items():
        for one in listed.values():
            if {"x", "y", "w", "h", "Name"} <= one.keys():
                x, y, w, h = (float(one[key]) for key in "xywh")
                boxes[file][one["Name"]] = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    return boxes


def digests(folder: Path) -> dict[str, str]:
    found = (one for one in folder.rglob("*") if one.is_file())
    return {str(one.relative_to(folder)): hashlib.sha256(one.read_bytes()).hexdigest() for one in found}


def speak(files: Sequence[Path], folder: Path) -> float:
    """Seconds per photo from reading to the journal, with a model and no concepts."""
    vlm, place = MyVLM.from_pretrained("tinyworld/llava"), AlbumFiles(folder / "spoken.html")
    journal = Journal(place.journal, "tinyworld/llava")
    begun = time.perf_counter()
    rows = list(read_album(vlm, files, journal, place, prompt=None, batch=8))
    return round((time.perf_counter() - begun) / len(rows), 2)


if __name__ == "__main__":
    sys.exit(main())
