"""The program exiftool, kept running by pyexiftool: metadata of many files read at once, changed in one."""

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
AT_ONCE = 100
"""Files that are asked about in one go."""


class NotChangedError(MyVLMError, OSError):
    """exiftool could not change the metadata of a file; it is as it was."""


class ExifTool:
    """The running program: reads the metadata of many files at once, and changes that of one."""

    def __init__(self, running: Any) -> None:
        self._running = running

    def read(self, files: Sequence[Path]) -> dict[Path, dict[str, Any]]:
        """The XMP of each file, `{"XMP-dc:Subject": [...]}`, numbers as texts; none of a broken one."""
        found: dict[Path, dict[str, Any]] = {file: {} for file in files}
        sayable = [file for file in files if _sayable(file)]
        for start in range(0, len(sayable), AT_ONCE):
            some = sayable[start : start + AT_ONCE]
            said = self._running.execute(
                "-q", "-q", "-j", "-struct", "-G1", "-n", "-XMP:all", *map(str, some)
            )
            for one in json.loads(said, parse_int=str, parse_float=str) if said.strip() else ():
                found[Path(one.pop("SourceFile"))] = one
        return found

    def change(self, file: Path, arguments: Sequence[str], *, keep_time: bool) -> None:
        """Change the metadata of a file, or make a sidecar.

        Raises:
            NotChangedError: that could not be done.
        """
        if not _sayable(file):
            raise NotChangedError(
                f"The names were not written to {str(file)!r}.",
                got="a path with a line break, or bytes that are no UTF-8: exiftool cannot be told",
                expected="a file whose whole path is one line of UTF-8",
                fix="rename the photo, or the folder that it lies in",
            )
        kept = ["-P"] if keep_time else []
        self._running.execute("-overwrite_original", "-q", *kept, *arguments, str(file))
        if self._running.last_status:
            raise NotChangedError(
                f"The names were not written to {file}.",
                got=" ".join(self._running.last_stderr.split()) or "exiftool does not say why",
                expected="a file whose metadata exiftool can write, where you may write",
                fix="check its permissions, or write into sidecars",
            )

    def packet(self, file: Path) -> bytes:
        """The XMP inside a picture, byte by byte; empty where there is none."""
        with tempfile.TemporaryDirectory() as folder:
            self._running.execute("-q", "-b", "-XMP", "-W", f"{folder}/packet", str(file))
            packet = Path(folder, "packet")
            return packet.read_bytes() if packet.exists() else b""


def check_exiftool() -> str:
    """Where the program is.

    Raises:
        InputError: it, or the package, is not there; it says what to install.
    """
    if find_spec("exiftool") is None:
        raise _missing("the package pyexiftool", 'pip install "myvlm[album]"')
    program = shutil.which("exiftool")
    if program is None:
        raise _missing("the program exiftool", "apt install libimage-exiftool-perl, or brew install exiftool")
    return program


@contextmanager
def exiftool() -> Iterator[ExifTool]:
    """exiftool for the length of the block. Raises as `check_exiftool`."""
    program = check_exiftool()
    import exiftool as package

    common = ["-charset", "filename=utf8", "-api", "largefilesupport=1"]
    with package.ExifTool(program, common_args=common, config_file=str(CONFIG), encoding="utf-8") as running:
        yield ExifTool(running)


def _sayable(file: Path) -> bool:
    """Whether its name can be told to exiftool: a line of UTF-8."""
    try:
        return "\n" not in str(file) and bool(str(file).encode())
    except UnicodeEncodeError:
        return False


def _missing(what: str, how: str) -> InputError:
    return InputError(
        f"To read and write names in photos, {what} is needed.",
        got="it is not installed, or not on the path",
        expected="both pyexiftool and the program exiftool",
        fix=how,
    )
