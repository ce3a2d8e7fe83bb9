"""The protocol with fake methods: what runs, what is stored, what is resumed, what is reported."""

from __future__ import annotations

import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from myvlm.errors import InputError
from myvlm.evaluation.data.dataset import Dataset
from myvlm.evaluation.data.outcome import Answered, JobOutcome, MarkedPicture, PictureReply
from myvlm.evaluation.data.plan import Plan, jobs_of, read_sweep
from myvlm.evaluation.metrics.figures import figures_of
from myvlm.evaluation.protocol import bench as trial
from myvlm.evaluation.protocol.journal import JobJournal
from myvlm.evaluation.protocol.run import check, run
from myvlm.evaluation.report.page import page
from myvlm.evaluation.report.summary import evaluation_of, markdown
from myvlm.evaluation.report.tables import tables_of
from tests.support.pretending import FAILS, TAUGHT, Pretending, PretendVLM, subject


@pytest.fixture(autouse=True)
def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    TAUGHT.clear()
    FAILS.clear()
    monkeypatch.setattr(trial, "make_method", Pretending)


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return Dataset(subjects=(subject(tmp_path, "mug", "sks"), subject(tmp_path, "dog", "ohwx", kind="face")))


def evaluate(data: Dataset, plan: Plan, keep: Path) -> list[tuple[Any, JobOutcome]]:
    return run(data, plan, PretendVLM, keep=keep, backbone="pretend")  # type: ignore[arg-type]


PLAN = Plan(methods=("myvlm", "plain"), splits=2, photos=(1, 2, 4), shown=0)


def test_a_method_is_never_handed_what_it_is_tested_on(data: Dataset, tmp_path: Path) -> None:
    finished = evaluate(data, PLAN, tmp_path / "kept")
    assert len(finished) == len(TAUGHT) == 2 * 2 * 4
    by_split: dict[Any, set[Any]] = {}
    for (job, outcome), (method, handed, photos, seed) in zip(finished, TAUGHT, strict=True):
        assert handed.photos == photos
        assert handed.negatives == ()
        assert (method.name, seed, len(photos)) == (job.method, job.split, job.photos)
        tested = {one.file for one in outcome.present}
        assert not {photo.file for photo in photos} & tested
        by_split.setdefault(job.group, set()).add(frozenset(tested))
    assert all(len(tested) == 1 for tested in by_split.values()), "1, 2 and 4 photos have the same tests"


def test_the_figures_of_what_was_said(data: Dataset, tmp_path: Path) -> None:
    finished = evaluate(data, PLAN, tmp_path / "kept")
    ours = figures_of(finished[0][1], data.subjects[0])
    assert (ours["recall"], ours["precision"], ours["f1"], ours["said_absent"]) == (1, 1, 1, 0)
    assert (ours["vqa"], ours["plain_identical"], ours["leakage"]) == (0.5, 1, 0)
    assert "clip_score" not in ours
    assert "head_recall" not in ours
    plain = figures_of(finished[1][1], data.subjects[0])
    assert (plain["recall"], plain["precision"]) == (0, 0)


def test_forgetting_shows(data: Dataset, tmp_path: Path) -> None:
    finished = evaluate(data, Plan(methods=("forgetful",), splits=1, shown=0), tmp_path / "kept")
    assert figures_of(finished[0][1], data.subjects[0])["plain_identical"] == 0


def test_a_killed_run_goes_on_where_it_stopped(data: Dataset, tmp_path: Path) -> None:
    keep = tmp_path / "kept"
    FAILS.add("ohwx")
    with pytest.raises(KeyboardInterrupt):
        evaluate(data, PLAN, keep)
    assert len(TAUGHT) == 9
    lines = (keep / "runs.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 8
    (keep / "runs.jsonl").write_text("\n".join(lines) + '\n{"job": {"sub')  # as if killed while writing
    FAILS.clear()
    TAUGHT.clear()
    told: list[tuple[int, int]] = []
    finished = run(
        data,
        PLAN,
        PretendVLM,  # type: ignore[arg-type]
        keep=keep,
        backbone="pretend",
        on_progress=lambda *n: told.append(n),
    )
    assert len(TAUGHT) == 8
    assert (told[0], told[-1], len(finished)) == ((8, 16), (16, 16), 16)
    TAUGHT.clear()
    assert evaluate(data, PLAN, keep) == finished
    assert TAUGHT == []
    more = PLAN.model_copy(update={"splits": 3})
    assert len(evaluate(data, more, keep)) == 24
    assert len(TAUGHT) == 8, "a plan that grew runs only what is new"


def test_where_the_system_does_not_tell_the_memory_there_is_no_figure(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    outcome = evaluate(data, Plan(methods=("myvlm",), splits=1, photos=(1,), shown=0), tmp_path)[0][1]
    assert outcome.memory_mib is None
    assert "memory_mib" not in figures_of(outcome, data.subjects[0])


def test_runs_of_another_evaluation_are_not_mixed_in(data: Dataset, tmp_path: Path) -> None:
    keep = tmp_path / "kept"
    evaluate(data, PLAN, keep)
    with pytest.raises(InputError, match="backbone pretend") as told:
        JobJournal(keep, data, PLAN, "other")
    assert "--keep" in str(told.value)
    with pytest.raises(InputError, match="most_absent 20"):
        JobJournal(keep, data, PLAN.model_copy(update={"most_absent": 5}), "pretend")
    with pytest.raises(InputError, match="another evaluation"):
        JobJournal(keep, Dataset(subjects=data.subjects[:1]), PLAN, "pretend")


def test_more_photos_than_can_teach_are_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    dog = subject(tmp_path, "dog", "ohwx")
    fewer = subject(tmp_path, "mug", "sks").model_copy(update={"photos": dog.photos[:3]})
    data, keep = Dataset(subjects=(dog, fewer)), tmp_path / "kept"
    wrong = [
        (Plan(photos=(1, 9)), r"sks has too few photos to learn from 9.*2 of its 3 .*--photos 2"),
        (Plan(photos=(2,), variants=read_sweep(["photos=3"])), r"photos=3 needs more photos.*--photos 3"),
    ]
    for plan, told in wrong:
        with pytest.raises(InputError, match=f"(?s){told}"):
            run(data, plan, lambda: pytest.fail("loaded"), keep=keep, backbone="pretend")
    assert not keep.exists()
    keep.mkdir()
    (keep / "runs.jsonl").write_text("mine\nmine\n")
    with pytest.raises(InputError, match="another evaluation"):
        check(data, Plan(photos=(2,)), keep=keep, backbone="pretend")


# ---------------------------------------------------------------- sweeps


def test_a_sweep_is_one_table_beside_the_default(data: Dataset, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text("regularizer: [0, 0.03]\n")
    variants = read_sweep(["captions=model", "photos=2"], sweep)
    plan = Plan(methods=("myvlm",), splits=2, variants=variants, variant_splits=1, shown=0)
    finished = evaluate(data, plan, tmp_path / "kept")
    by_name = {job.variant.name: photos for (job, _), (_, _, photos, _) in zip(finished, TAUGHT, strict=True)}
    assert list(by_name) == ["default", "regularizer=0", "regularizer=0.03", "captions=model", "photos=2"]
    assert all(photo.captions == () for photo in by_name["captions=model"])
    assert (len(by_name["photos=2"]), len(by_name["default"])) == (2, 4)
    settings = {
        job.variant.name: method.setting.teaching.settings
        for (job, _), (method, *_) in zip(finished, TAUGHT, strict=True)
    }
    assert settings["default"] == {}
    assert settings["regularizer=0"] == {"regularizer": 0}
    _, ablation = tables_of(data, plan, finished)
    assert [row.label for row in ablation.rows] == list(by_name)
    assert {row.figures["recall"].count for row in ablation.rows} == {2}, "all rows have the same splits"


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("colour=red", "unknown axis"),
        ("photos=0", "greater than or equal to 1"),
        ("rows=0", "greater than or equal to 1"),
        ("captions=best", "unknown axis or value"),
        ("regularizer", "valid number"),
    ],
)
def test_a_sweep_that_cannot_be_lists_the_axes(word: str, told: str) -> None:
    with pytest.raises(InputError, match=told) as error:
        read_sweep([word])
    assert "photos, captions, rows, steps" in str(error.value)


# ---------------------------------------------------------------- tables and reports


def test_tables_tell_objects_and_people_apart(data: Dataset, tmp_path: Path) -> None:
    finished = evaluate(data, PLAN, tmp_path / "kept")
    methods, photos = tables_of(data, PLAN, finished)
    labels = ["myvlm", "plain", "myvlm, objects", "plain, objects", "myvlm, people", "plain, people"]
    assert [row.label for row in methods.rows] == labels
    assert [row.label for row in photos.rows][:3] == ["1", "2", "4"]
    assert methods.rows[0].figures["recall"].count == 4
    assert methods.rows[2].figures["recall"].count == 2
    assert {"bleu4", "cider"} <= set(methods.columns)
    assert len(list(jobs_of(PLAN, data))) == 16


@pytest.fixture
def evaluation(data: Dataset, tmp_path: Path) -> Any:
    plan = Plan(methods=("myvlm",), splits=1, sentences="all-MiniLM-L6-v2")
    Image.new("RGB", (96, 96), "red").save(tmp_path / "p.png")
    said = tuple(
        PictureReply(file=photo.file, text="sks & co", seen=True) for photo in data.subjects[0].photos
    )
    shown = (
        MarkedPicture(picture="p.png", overlay="p.png", wanted=True, text="sks <on> grass", plain="a mug"),
        MarkedPicture(picture="p.png", overlay=None, wanted=False, text="sks", plain="grass"),
    )
    asked = (Answered(file=said[0].file, question="?", answer="red", truth="red"),)
    outcome = JobOutcome(
        taught=(), taught_captions=(), present=said, absent=said[:1], answered=asked, shown=shown
    )
    job = next(iter(jobs_of(plan, data)))
    return evaluation_of(data, plan, [(job, outcome)], data="MyVLM", backbone="a<b", pictures=tmp_path)


def test_markdown_has_every_figure_and_what_it_means(evaluation: Any) -> None:
    text = markdown(evaluation)
    head, _, row, *_ = [line for line in text.splitlines() if line.startswith("|")]
    assert head.startswith("| method | recall | said_absent | precision | f1 | head_recall |")
    assert row.startswith("| myvlm | 1.000 | 1.000 | 0.857 | 0.923 | 1.000 | 0.000 | 0.500 | 1.000 |")
    assert "- `f1`: harmonic mean of recall and precision" in text
    assert "CLIPScore was not measured; choose a model with --clip." in text
    assert "Sentence similarity was measured with all-MiniLM-L6-v2." in text
    assert json.dumps(evaluation.as_document())


class Tags(HTMLParser):
    """Checks that tags are closed in order; collects images and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attributes))
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_escaped_and_fetches_nothing(evaluation: Any) -> None:
    text = page(evaluation)
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert len(tags.images) == 3
    assert all(str(image["src"]).startswith("data:image/png") and image["alt"] for image in tags.images)
    assert "http" not in text
    assert "<mark>sks</mark> &lt;on&gt; grass" in text
    assert "a&lt;b on MyVLM" in text
    assert "prefers-color-scheme: dark" in text
    assert text.index("named, though it is not here") < text.index("named where it is")
    assert "$" not in text.partition("</style>")[2]
