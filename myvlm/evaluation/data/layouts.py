"""Read the three data set layouts from disk as drafts: unvalidated subjects, with the source of each value.

`myvlm.evaluation.data.dataset` validates drafts; nothing is validated here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from myvlm.errors import InputError, MissingFileError
from myvlm.evaluation.data.problems import Problems
from myvlm.files.photos import PHOTO_SUFFIXES, natural_key
from myvlm.files.reading import as_on_disk, read_json
from myvlm.text import composed, replace_words

Location: TypeAlias = tuple[int | str, ...]
"""Path of keys and indices to a value of a draft, as pydantic reports it: ("photos", 2, "captions", 0)."""

PLACEHOLDERS = ("<sks>", "S*")
"""Placeholders for the identifier in published captions and questions; `sks` itself is an identifier."""
DEFAULT_IDENTIFIER = "sks"


@dataclass(frozen=True)
class Draft:
    """An unvalidated subject: the fields of a `Subject`, and `where` (file and key) each value was read."""

    values: dict[str, Any]
    where: Callable[[Location], str]


def read_layout(source: Path, problems: Problems) -> list[Draft]:
    """Read a folder or a manifest as drafts; parts that cannot be read are added to `problems`.

    Raises:
        MissingFileError: the path does not exist.
    """
    if source.is_file():
        return read_manifest(source, problems)
    if not source.is_dir():
        raise MissingFileError(
            f"There is no data set {source}.",
            got=f"nothing at that path, from {Path.cwd()}",
            expected="a folder with one folder per subject, or a manifest such as data.json",
            fix="check the path",
        )
    if (source / "train").is_dir() and (source / "test").is_dir():
        return read_yollava_layout(source, problems)
    return read_paper_layout(source, problems)


# ---------------------------------------------------------------- one file


def read_manifest(file: Path, problems: Problems) -> list[Draft]:
    """Read `{"subjects": [{"identifier": …, "photos": [{"file": …, "captions": […]}]}]}`.

    Paths are relative to the manifest's folder.
    """
    parsed = _read_json(file, file.name, problems)
    entries = parsed.get("subjects") if isinstance(parsed, dict) else None
    if parsed is not None and (not isinstance(entries, list) or not entries):
        problems.add(f"{file.name}: subjects", "is not a list of subjects")
    return [
        Draft(_joined_to_folder(file.parent, entry), _manifest_source(file.name, number))
        for number, entry in enumerate(entries if isinstance(entries, list) else ())
    ]


def _manifest_source(name: str, number: int) -> Callable[[Location], str]:
    return lambda location: f"{name}: subjects[{number}]{_dotted_path(location, first='.')}"


def _joined_to_folder(folder: Path, entry: Any) -> Any:
    """Join a subject's paths to the folder; malformed parts are left for validation to report."""
    if not isinstance(entry, dict):
        return entry
    joined = dict(entry)
    if isinstance(entry.get("photos"), list):
        joined["photos"] = [
            {**photo, "file": as_on_disk(folder / photo["file"])}
            if isinstance(photo, dict) and isinstance(photo.get("file"), str)
            else photo
            for photo in entry["photos"]
        ]
    if isinstance(entry.get("negatives"), list):
        joined["negatives"] = [
            as_on_disk(folder / n) if isinstance(n, str) else n for n in entry["negatives"]
        ]
    return joined


# ---------------------------------------------------------------- a folder a subject


def read_paper_layout(source: Path, problems: Problems) -> list[Draft]:
    """Read `<subject>/*.jpg`, `captions.json`; optional: `questions.json`, `subject.json`, `negatives/`."""
    folders = [folder for folder in sorted(source.iterdir(), key=natural_key) if _holds_subject(folder)]
    if not folders:
        problems.add(str(source), "contains no folder with photos and captions.json")
    return [_paper_subject(folder, problems) for folder in folders]


def _holds_subject(folder: Path) -> bool:
    return folder.is_dir() and ((folder / "captions.json").exists() or bool(_pictures(folder)))


def _paper_subject(folder: Path, problems: Problems) -> Draft:
    about = _read_object(folder, "subject.json", problems)
    identifier = about.get("identifier", DEFAULT_IDENTIFIER)
    files = _pictures(folder)
    captions = _read_by_photo(folder, "captions.json", files, problems)
    questions = _read_by_photo(folder, "questions.json", files, problems)
    photos = [
        {
            "file": file,
            "captions": _with_identifier(_as_list(captions.get(composed(file.name), [])), identifier),
            "questions": _with_identifier(questions.get(composed(file.name), []), identifier),
        }
        for file in files
    ]
    values = {"identifier": identifier, "category": folder.name.replace("_", " "), "name": folder.name}
    negatives = _pictures(folder / "negatives")
    return Draft({**values, "negatives": negatives, **about, "photos": photos}, _folder_source(folder, files))


def _folder_source(folder: Path, files: list[Path]) -> Callable[[Location], str]:
    def where(location: Location) -> str:
        match location:
            case ("photos", int(number), "captions" | "questions" as kind, *rest):
                return f"{folder.name}/{kind}.json: {files[number].name}{_dotted_path(tuple(rest))}"
            case ("photos", int(number), *_):
                return f"{folder.name}/{files[number].name}"
            case ("photos", *_):
                return f"{folder.name}: photos"
        return f"{folder.name}/subject.json: {_dotted_path(location)}"

    return where


# ---------------------------------------------------------------- Yo'LLaVA


def read_yollava_layout(source: Path, problems: Problems) -> list[Draft]:
    """Read `train/<subject>/`, `test/<subject>/` and the questions in `yollava-visual-qa.json`.

    The data set has no captions and no categories. You may add a `subjects.json`: subject → identifier,
    category, kind. By default, identifier and category are the name of the subject's folder.
    """
    about = {composed(name): own for name, own in _read_object(source, "subjects.json", problems).items()}
    questions = _yollava_questions(source, problems)
    names = sorted({f.name for part in ("train", "test") for f in (source / part).iterdir() if f.is_dir()})
    drafts = []
    for name in names:
        own = about.get(composed(name), {})
        if not isinstance(own, dict):
            problems.add(f"subjects.json: {name}", "is not an object")
            own = {}
        identifier = own.get("identifier", name)
        files = [(part, file) for part in ("train", "test") for file in _pictures(source / part / name)]
        asked = [
            _with_identifier(questions.get((part, name, composed(file.name)), []), identifier)
            for part, file in files
        ]
        photos = [
            {"file": file, "part": part, "questions": own_questions}
            for (part, file), own_questions in zip(files, asked, strict=True)
        ]
        values = {"identifier": identifier, "category": name.replace("_", " "), "name": name}
        drafts.append(
            Draft({**values, **own, "photos": photos}, _yollava_source(name, [f for _, f in files]))
        )
    return drafts


def _yollava_source(name: str, files: list[Path]) -> Callable[[Location], str]:
    def where(location: Location) -> str:
        match location:
            case ("photos", int(number), "questions", *rest):
                return f"yollava-visual-qa.json: {name}/{files[number].name}{_dotted_path(tuple(rest))}"
            case ("photos", int(number), *_):
                return str(files[number])
            case ("photos", *_):
                return f"train/{name} and test/{name}: photos"
        return f"subjects.json: {name}{_dotted_path(location, first='.')}"

    return where


def _yollava_questions(source: Path, problems: Problems) -> dict[tuple[str, str, str], list[Any]]:
    """(part, subject, file name) → questions. In the published file, subjects are an outer level."""
    name = "yollava-visual-qa.json"
    found: dict[tuple[str, str, str], list[Any]] = {}
    for key, entry in _read_object(source, name, problems).items():
        inner = {key: entry} if isinstance(entry, dict) and "question" in entry else entry
        for path, asked in inner.items() if isinstance(inner, dict) else ():
            place = as_on_disk(source / Path(*Path(path).parts[-3:])).parts[-3:]
            if len(Path(path).parts) < 3 or not (source / Path(*place)).is_file():
                problems.add(f"{name}: {path}", "there is no such photo")
            else:
                found.setdefault((place[0], place[1], composed(place[2])), []).append(_with_options(asked))
        if not isinstance(inner, dict):
            problems.add(f"{name}: {key}", "is not an object of photos")
    return found


def _with_options(asked: Any) -> Any:
    """Convert `{"question", "options": {"A": …}, "correct_answer": "A"}` to the fields of a `Question`."""
    if not isinstance(asked, dict) or not isinstance(asked.get("options"), dict):
        return asked
    options = asked["options"]
    answer = options.get(asked.get("correct_answer"), asked.get("correct_answer"))
    return {"question": asked.get("question"), "answer": answer, "options": list(options.values())}


# ---------------------------------------------------------------- reading


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    files = [f for f in folder.iterdir() if f.suffix.lower() in PHOTO_SUFFIXES and not f.name.startswith(".")]
    return sorted(files, key=natural_key)


def _read_by_photo(folder: Path, name: str, files: list[Path], problems: Problems) -> Mapping[str, Any]:
    """Read a JSON object of photo → entry; a key that names no photo is a problem."""
    entries = {composed(key): entry for key, entry in _read_object(folder, name, problems).items()}
    known = {composed(file.name) for file in files}
    for key in entries:
        if key not in known:
            problems.add(f"{folder.name}/{name}: {key}", "there is no such photo")
    return entries


def _read_object(folder: Path, name: str, problems: Problems) -> dict[str, Any]:
    file = folder / name
    if not file.exists():
        return {}
    shown = f"{folder.name}/{name}" if folder != problems.source else name
    parsed = _read_json(file, shown, problems)
    if parsed is not None and not isinstance(parsed, dict):
        problems.add(shown, f"is a {type(parsed).__name__}, not an object")
    return parsed if isinstance(parsed, dict) else {}


def _read_json(file: Path, shown: str, problems: Problems) -> Any:
    """Parse a JSON file; if that fails, add a problem and return None."""
    try:
        return read_json(file, expected="JSON")
    except InputError as error:
        problems.add(shown, f"is not JSON in UTF-8: {error.got}")
        return None


def _as_list(entry: Any) -> Any:
    return [entry] if isinstance(entry, str) else entry


def _with_identifier(value: Any, identifier: Any) -> Any:
    """Replace placeholders by the identifier in all texts of a nested value."""
    if isinstance(value, str) and isinstance(identifier, str):
        return replace_words(value, dict.fromkeys(PLACEHOLDERS, identifier))
    if isinstance(value, list):
        return [_with_identifier(one, identifier) for one in value]
    if isinstance(value, dict):
        return {key: _with_identifier(one, identifier) for key, one in value.items()}
    return value


def _dotted_path(location: Location, *, first: str = "") -> str:
    """Write a location as a dotted path.

    >>> _dotted_path(("photos", 2, "captions", 0))
    'photos[2].captions[0]'
    """
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else f"{first}{part}"
    return text
