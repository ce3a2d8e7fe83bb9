"""Read and change metadata with the program exiftool, which pyexiftool keeps running."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from myvlm.errors import InputError, MyVLMError

CONFIG = Path(__file__).with_name("exiftool.config")
FILES_PER_CALL = 100
"""Number of files that are read by one call of exiftool."""


class NotChangedError(MyVLMError, OSError):
    """exiftool could not change the metadata of a file; the file is unchanged."""


class ExifTool:
    """A running exiftool process: reads the metadata of many files at once, changes one file at a time."""

    def __init__(self, running: Any) -> None:
        self._running = running

    def read(self, files: Sequence[Path]) -> dict[Path, dict[str, Any]]:
        """Return each file's XMP tags, `{"XMP-dc:Subject": [...]}`, numbers as text; empty if broken."""
        found: dict[Path, dict[str, Any]] = {file: {} for file in files}
        passable = [file for file in files if _is_passable(file)]
        for start in range(0, len(passable), FILES_PER_CALL):
            some = passable[start : start + FILES_PER_CALL]
            output = self._running.execute(
                "-q", "-q", "-j", "-struct", "-G1", "-n", "-XMP:all", *map(str, some)
            )
            for one in json.loads(output, parse_int=str, parse_float=str) if output.strip() else ():
                found[Path(one.pop("SourceFile"))] = one
        return found

    def change(self, file: Path, arguments: Sequence[str], *, keep_time: bool) -> None:
        """Change the metadata of a file, or create a sidecar.

        Raises:
            NotChangedError: exiftool could not do it.
        """
        if not _is_passable(file):
            raise NotChangedError(
                f"The metadata of {str(file)!r} cannot be changed.",
                got="a path with a line break or bytes that are not UTF-8, which exiftool does not accept",
                expected="a path of one line in UTF-8",
                fix="rename the photo, or the folder that it is in",
            )
        kept = ["-P"] if keep_time else []
        self._running.execute("-overwrite_original", "-q", *kept, *arguments, str(file))
        if self._running.last_status:
            raise NotChangedError(
                f"The metadata of {file} cannot be changed.",
                got=" ".join(self._running.last_stderr.split()) or "exiftool gives no reason",
                expected="a writable file whose metadata exiftool can change",
                fix="check its permissions, or write names to sidecars",
            )

    def xmp_packet(self, file: Path) -> bytes:
        """Return the raw bytes of the XMP packet inside a picture; empty if there is none."""
        with tempfile.TemporaryDirectory() as folder:
            self._running.execute("-q", "-b", "-XMP", "-W", f"{folder}/packet", str(file))
            packet = Path(folder, "packet")
            return packet.read_bytes() if packet.exists() else b""


def check_exiftool() -> str:
    """Return the path of the program exiftool.

    Raises:
        InputError: the program or the package pyexiftool is missing; the message says what to install.
    """
    if find_spec("exiftool") is None:
        raise _missing("the package pyexiftool", 'pip install "myvlm[album]"')
    program = shutil.which("exiftool")
    if program is None:
        raise _missing("the program exiftool", "apt install libimage-exiftool-perl, or brew install exiftool")
    return program


@contextmanager
def exiftool() -> Iterator[ExifTool]:
    """Run exiftool for the duration of a `with` block. Raises as `check_exiftool`."""
    program = check_exiftool()
    import exiftool as package

    common = ["-charset", "filename=utf8", "-api", "largefilesupport=1"]
    with package.ExifTool(program, common_args=common, config_file=str(CONFIG), encoding="utf-8") as running:
        yield ExifTool(running)


def _is_passable(file: Path) -> bool:
    """Return whether a path can be passed to exiftool: it must be one line of UTF-8."""
    try:
        return "\n" not in str(file) and bool(str(file).encode())
    except UnicodeEncodeError:
        return False


def _missing(what: str, how: str) -> InputError:
    return InputError(
        f"Reading and writing names in photos needs {what}.",
        got="it is not installed, or not on the PATH",
        expected="both pyexiftool and the program exiftool",
        fix=how,
    )
