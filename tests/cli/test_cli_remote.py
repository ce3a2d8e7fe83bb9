"""Commands with addresses: loading and saving concepts; faces are uploaded only after two consents."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from myvlm.concepts.concept import Concept
from myvlm.concepts.remote.address import SHARE_FACES
from myvlm.concepts.remote.store import Store
from tests.support.command import Myvlm, files_under
from tests.support.local_hub import TOKEN, local_hub
from tests.support.stores import fresh_address
from tests.support.taught import Taught

ROOT = Path(__file__).parents[2]


def test_a_concept_is_learned_to_an_address_and_used_from_there(myvlm: Myvlm, taught: Taught) -> None:
    url = fresh_address("memory")
    run = myvlm(
        "learn", taught.word, taught.photos, "--category", "mug", "--steps", 2, "--out", url, "--json"
    )
    assert run.code == 0, run.stderr
    assert run.document["folder"] == url
    assert run.document["bytes"] > 1000
    assert files_under(Path.cwd()) == [], "a copy was left here"
    assert Concept.load(url).identifier == taught.word
    picture = taught.photos / "1.png"
    for place in (url, url.rpartition("/")[0]):
        said = myvlm("caption", picture, "--concepts", place, "--json")
        assert said.code == 0, said.stderr
        assert said.document["pictures"][0]["seen"] == [taught.word]
    other = myvlm("learn", "ohwx", taught.photos, "--category", "mug", "--out", url)
    assert other.code == 2
    assert "contains another concept" in other.stderr


def test_what_was_learned_is_not_lost_with_the_network(
    myvlm: Myvlm, taught: Taught, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = fresh_address("memory")

    def down(*_: object, **__: object) -> None:
        raise ConnectionResetError("the line went dead")

    monkeypatch.setattr(type(Store(url)._files), "pipe_file", down)
    run = myvlm("introduce", taught.word, taught.photos, "--category", "mug", "--out", url)
    assert run.code == 2
    assert f"myvlm concepts push {taught.word} {url}" in run.stderr
    assert Concept.load(f"concepts/{taught.word}-mug").identifier == taught.word
    monkeypatch.undo()
    os.chdir(files_at := Path("concepts").absolute().parent)
    assert myvlm("concepts", "push", taught.word, url, "-c", files_at / "concepts").code == 0
    assert Concept.load(url).identifier == taught.word


def test_concepts_are_pushed_listed_shown_and_fetched(myvlm: Myvlm, taught: Taught) -> None:
    shelf = f"{fresh_address('memory')}/shelf"
    url = f"{shelf}/mug"
    pushed = myvlm("concepts", "push", taught.word, url, "-c", taught.folder.parent, "--json")
    assert pushed.document == {"pushed": taught.word, "address": url}
    listed = myvlm("concepts", "list", "-c", shelf, "--json").document
    assert [one["folder"] for one in listed["concepts"]] == [url]
    assert listed["collection"] == shelf
    shown = myvlm("concepts", "show", taught.word, "-c", shelf)
    assert url in shown.stdout
    added = myvlm("concepts", "add", url)
    assert added.code == 0, added.stderr
    assert Concept.load("concepts/mug").identifier == taught.word
    folder = myvlm("concepts", "push", taught.word, "elsewhere")
    assert folder.code == 2
    assert "The destination is not an address" in folder.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["concepts", "rename", "sks", "ohwx", "-c"],
        ["concepts", "remove", "sks", "-c"],
        ["app", "--no-browser", "--concepts"],
        ["correct", "x.png", "sks", "--not-there", "--concepts"],
        ["learn-all", "recipes.yaml", "--concepts"],
    ],
)
def test_what_changes_folders_wants_them_here(myvlm: Myvlm, words: list[str], saved: Path) -> None:
    if words[0] == "app":
        pytest.importorskip("gradio", reason='needs gradio: pip install "myvlm[app]"')
    Path("x.png").write_bytes((ROOT / "concepts/ulmo-mug/photos/1.png").read_bytes())
    Path("recipes.yaml").write_text("concepts: [{identifier: sks, category: mug, photos: x.png}]")
    run = myvlm(*words, "s3://things/concepts")
    assert run.code == 2
    assert "must be on this machine" in run.stderr


def test_a_face_and_photos_stay_before_anything_is_learned(
    myvlm: Myvlm, taught: Taught, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SHARE_FACES, raising=False)
    url = fresh_address("memory")
    learn = ["learn", "Anna", taught.photos, "--category", "woman", "--kind", "face", "--out", url]
    for words in (learn, [*learn, "--face-consent"]):
        run = myvlm(*words)
        assert run.code == 2
        assert "The face of 'Anna' may not be uploaded" in run.stderr
    run = myvlm("learn", "sks", taught.photos, "--category", "mug", "--out", url, "--keep-photos")
    assert run.code == 2
    assert "Photos cannot be uploaded" in run.stderr
    assert Store(url).names() == []


def test_the_hub_by_the_command_alone(saved: Path, tmp_path: Path) -> None:
    """As users have it: the program with its environment, nothing patched."""

    def run(*words: str) -> dict[str, object]:
        done = subprocess.run(
            [sys.executable, "-m", "myvlm", "concepts", *words, "--json"],
            env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return dict(json.loads(done.stdout))

    with local_hub() as hub:
        environment = {
            **os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        run("push", "sks", "hf://me/mug", "-c", str(saved.parent))
        assert hub.repositories["me/mug"].private
        run("add", "hf://me/mug", "-c", "mine")
        assert Concept.load(tmp_path / "mine" / "mug").identifier == "sks"
