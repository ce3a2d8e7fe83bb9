"""The page in a real browser: learn, look, ask, rename, remove; two tabs; a huge and a broken picture.

Screenshots are written into the test's own folder, or into MYVLM_SCREENSHOTS if that is set.
"""

from __future__ import annotations

import base64
import io
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from myvlm import Concept, MyVLM
from myvlm.app.desk import Desk
from myvlm.app.server import running
from myvlm.app.storage import CollectionStorage
from myvlm.display.pictures import MARK
from myvlm.heads.faces.registry import register_face_encoder
from myvlm.learning.progress import LearningProgress
from myvlm.tinyworld import FewShot, few_shot
from myvlm.tinyworld.fewshot import pictures
from myvlm.tinyworld.world.scenes import COLOURS
from tests.support.page import LEARNING, choose, corrections, drop, playwright, says, shot, write
from tests.support.scene_faces import SceneFaces, head_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # gradio's own warnings

pytest.importorskip("gradio", reason='no gradio here: pip install "myvlm[app]"')
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FACES = "scenes/page"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser here: install one of {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as plays:
        opened = plays.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def owner() -> FewShot:
    return few_shot(0, photos=4, tests=3)


@pytest.fixture(scope="module")
def files(owner: FewShot, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Photos to learn from, and pictures to try."""
    folder = tmp_path_factory.mktemp("dropped")
    made: dict[str, list[Path]] = {"photos": [], "present": [], "other": []}
    for kind, shown in (
        ("photos", owner.photos()), ("present", pictures(owner.present)), ("other", pictures(owner.other)),
    ):  # fmt: skip
        for number, picture in enumerate(shown):
            made[kind].append(folder / f"{kind}-{number}.png")
            picture.save(made[kind][-1])
    return made


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home") / "concepts"


@pytest.fixture(scope="module")
def woman() -> FewShot:
    """A woman; the last of the other pictures shows someone with her face, the rest show other people."""
    return few_shot(11, photos=4, tests=3)


@pytest.fixture(scope="module")
def going() -> threading.Event:
    """An event for which learning waits before its second step, so that tests can look at the page."""
    event = threading.Event()
    event.set()
    return event


@pytest.fixture(scope="module")
def address(vlm: MyVLM, shelf: Path, woman: FewShot, going: threading.Event) -> Iterator[str]:
    from tests.support import taught

    scenes = [*woman.train, *woman.present, *woman.look_alike]
    twin = next(one.look for one in woman.look_alike[-1].things if one.category == woman.category)
    register_face_encoder(FACES, lambda _: SceneFaces(FACES, scenes, {twin: woman.look}), replace=True)
    model = taught.around(vlm)
    learn = model.learn

    def learn_by_these_faces(*given: Any, kind: str, progress: Any, **rest: Any) -> Concept:
        def told(state: LearningProgress) -> None:
            if state.step > 1:
                assert going.wait(LEARNING / 1000)
            progress(state)

        options = {"encoder": FACES} if kind == "face" else None
        return learn(*given, kind=kind, head_options=options, progress=told, **rest)

    desk = Desk(model, CollectionStorage(shelf))
    stop = desk.stop

    def stop_and_go() -> None:
        stop()
        going.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "learn", learn_by_these_faces)
        patch.setattr(desk, "stop", stop_and_go)
        with running(desk) as found:
            yield found


@pytest.fixture
def tab(browser: Any, address: str, going: threading.Event) -> Iterator[Any]:
    with browser.new_context(viewport={"width": 1400, "height": 1500}) as context:
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("#learn")
        yield page
    going.set()


def test_teach_look_ask_rename_and_remove(
    tab: Any, address: str, owner: FewShot, files: dict[str, list[Path]], shelf: Path, tmp_path: Path,
    going: threading.Event,
) -> None:  # fmt: skip
    fetched: list[str] = []
    tab.on("requestfinished", lambda request: fetched.append(request.url))
    tab.reload()
    says(tab, "concepts", "There are no concepts yet")

    drop(tab, "photos", files["photos"])
    write(tab, "name", owner.identifier)
    write(tab, "category", "mug")
    going.clear()
    tab.locator("#learn").click()
    playwright.expect(tab.get_by_text(f"learning {owner.identifier}").first).to_be_visible(timeout=LEARNING)
    shot(tab, "learning", tmp_path)
    going.set()
    says(tab, "taught", "tinyworld/llava", LEARNING)
    assert tab.locator("#taught img").count() == 4
    says(tab, "concepts", owner.identifier)
    [kept] = shelf.iterdir()
    assert (kept / "concept.json").is_file()
    shot(tab, "learned", tmp_path)

    drop(tab, "pictures", [files["present"][0], files["other"][0]])
    tab.get_by_label("Show attention to each concept").check()
    tab.locator("#look").click()
    says(tab, "looks", f"attention to {owner.identifier}")
    seen, unseen = tab.locator("#looks .myvlm-look").all()
    ours, plain, _ = (column.inner_text() for column in seen.locator(".myvlm-column").all())
    assert owner.identifier in ours
    assert owner.identifier not in plain
    ours, plain = (column.inner_text() for column in unseen.locator(".myvlm-column").all())
    assert ours.split("\n")[1:] == plain.split("\n")[1:]
    assert owner.identifier not in ours
    shot(tab, "looked", tmp_path)

    write(tab, "question", f"what colour is {owner.identifier} ?")
    tab.locator("#question textarea, #question input").first.press("Enter")
    answer = tab.locator("#looks .myvlm-look").first
    playwright.expect(answer).not_to_contain_text("next to", timeout=60_000)
    said = answer.locator("figcaption").first.inner_text().split("\n")[0]
    assert said in COLOURS, "an answer, where the caption stood"

    choose(tab, owner.identifier, "wrong")
    tab.locator("#present").click()
    says(tab, "corrected", owner.identifier)
    assert tab.locator("#corrected [role=alert]").count() == 0
    shot(tab, "corrected", tmp_path)
    assert corrections(kept) == 1
    tab.locator("#undo").click()
    says(tab, "corrected", "undone")
    assert corrections(kept) == 0
    tab.locator("#undo").click()
    says(tab, "corrected", "nothing to undo")

    tab.get_by_text("Rename or remove").click()
    choose(tab, owner.identifier)
    write(tab, "new-name", "Gustav")
    tab.locator("#rename").click()
    says(tab, "concepts", "Gustav")
    choose(tab, "Gustav")
    tab.get_by_label("Erase its files permanently").check()
    shot(tab, "renamed", tmp_path)
    tab.locator("#remove").click()
    says(tab, "concepts", "There are no concepts yet")
    assert not kept.exists()
    assert fetched
    assert [url for url in fetched if not url.startswith((address, "data:", "blob:"))] == []


def test_a_person_is_known_by_the_face_shown_with_its_box_and_corrected(
    tab: Any, woman: FewShot, shelf: Path, tmp_path: Path
) -> None:
    files = {"anna": woman.train, "here": woman.present[:1], "other": woman.look_alike[:1],
             "twin": woman.look_alike[-1:]}  # fmt: skip
    dropped: dict[str, list[Path]] = {}
    for kind, scenes in files.items():
        dropped[kind] = [tmp_path / f"{kind}-{number}.png" for number in range(len(scenes))]
        for file, picture in zip(dropped[kind], pictures(scenes), strict=True):
            picture.save(file)
    drop(tab, "photos", dropped["anna"])
    write(tab, "name", woman.identifier)
    write(tab, "category", "woman")
    tab.locator("#learn").click()
    says(tab, "taught", "tinyworld/llava", LEARNING)
    [kept] = shelf.iterdir()
    assert Concept.load(kept).kind == "face", "found by what she is"
    shot(tab, "person-learned", tmp_path)

    drop(tab, "pictures", [*dropped["here"], *dropped["other"], *dropped["twin"]])
    tab.locator("#look").click()
    says(tab, "looks", "twin-0.png")
    here, other, twin = (seen_in(look) for look in tab.locator("#looks .myvlm-look").all())
    assert (woman.identifier in here, woman.identifier in other, woman.identifier in twin) == (
        True,
        False,
        True,
    )
    head = head_of(next(one for one in woman.present[0].things if one.look == woman.look))
    assert box_drawn(tab.locator("#looks .myvlm-look").first, pictures(woman.present[:1])[0].size) == (
        pytest.approx(head, abs=1.0)
    )
    shot(tab, "person-seen", tmp_path)

    choose(tab, "twin-0.png", "wrong-picture")
    choose(tab, woman.identifier, "wrong")
    tab.locator("#absent").click()
    says(tab, "corrected", "is not there")
    assert corrections(kept) == 1
    tab.locator("#look").click()
    playwright.expect(tab.locator("#looks .myvlm-look").last).not_to_contain_text(
        "detected: ", timeout=60_000
    )
    here, other, twin = (seen_in(look) for look in tab.locator("#looks .myvlm-look").all())
    assert (woman.identifier in here, woman.identifier in other, woman.identifier in twin) == (
        True,
        False,
        False,
    )
    shot(tab, "person-corrected", tmp_path)
    tab.locator("#undo").click()
    says(tab, "corrected", "undone")

    shown = tab.locator("#place img")
    source = shown.get_attribute("src")
    choose(tab, "here-0.png", "wrong-picture")
    playwright.expect(shown).not_to_have_attribute("src", source)
    for corner in (head[:2], head[2:]):
        shown.evaluate("image => image.decode()")  # until then it is not at its final place on the screen
        source = shown.get_attribute("src")
        shown.click(position=on_screen(shown, corner, pictures(woman.present[:1])[0].size))
        playwright.expect(shown).not_to_have_attribute("src", source)
    shot(tab, "person-pointed", tmp_path)
    tab.locator("#present").click()
    says(tab, "corrected", "is there")
    assert tab.locator("#corrected [role=alert]").count() == 0
    examples = Concept.load(kept).head.examples_  # type: ignore[attr-defined]
    assert examples.corrections[0].box == pytest.approx(head, abs=2.0)

    tab.get_by_text("Rename or remove").click()
    choose(tab, woman.identifier)
    tab.get_by_label("Erase its files permanently").check()
    tab.locator("#remove").click()
    says(tab, "concepts", "There are no concepts yet")


def seen_in(look: Any) -> str:
    """The words with the concepts, for one picture."""
    text: str = look.locator(".myvlm-column").first.inner_text()
    return text


def on_screen(shown: Any, point: tuple[float, float], size: tuple[int, int]) -> dict[str, float]:
    """Position of a picture's point in the element that shows the picture whole and centred."""
    area = shown.bounding_box()
    natural = shown.evaluate("one => one.naturalWidth")
    factor = min(area["width"] / size[0], area["height"] / size[1], natural / size[0])
    return {
        name: factor * at + (area[side] - factor * whole) / 2
        for name, at, side, whole in zip("xy", point, ("width", "height"), size, strict=True)
    }


def box_drawn(look: Any, size: tuple[int, int]) -> tuple[float, ...]:
    """The box drawn on the shown picture, by the middle of its lines, in pixels of the picture itself."""
    source = look.locator(".myvlm-column img").first.get_attribute("src")
    shown = Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).convert("RGB")
    lines = np.argwhere((np.asarray(shown) == MARK).all(axis=2))
    assert len(lines), "no box"
    (top, left), (bottom, right) = lines.min(axis=0), lines.max(axis=0)
    factor = shown.width / size[0]
    return tuple(float(edge) / factor for edge in (left, top, right, bottom))


def test_a_huge_and_a_broken_picture_are_named_and_the_others_go_on(
    tab: Any, files: dict[str, list[Path]], tmp_path: Path
) -> None:
    huge, broken = tmp_path / "huge.png", tmp_path / "broken.jpg"
    Image.new("1", (20_000, 20_000)).save(huge)
    broken.write_bytes(files["present"][0].read_bytes()[:400])
    drop(tab, "pictures", [huge, broken, files["present"][0]])
    tab.locator("#look").click()
    says(tab, "looks", "the plain model")
    faults = [one.inner_text() for one in tab.locator("#looks [role=alert]").all()]
    assert len(faults) == 2
    assert "huge.png" in faults[0]
    assert "too large" in faults[0]
    assert "broken.jpg cannot be read" in faults[1]
    assert "/" not in faults[1].replace("PNG/JPEG", ""), "where it lies on the server is of no use"
    shot(tab, "faults", tmp_path)

    drop(tab, "photos", [broken])
    write(tab, "name", "sks")
    write(tab, "category", "mug")
    tab.locator("#learn").click()
    says(tab, "taught", "cannot be read as a picture")
    says(tab, "concepts", "There are no concepts yet")


def test_what_is_missing_is_said(tab: Any, files: dict[str, list[Path]]) -> None:
    tab.locator("#learn").click()
    playwright.expect(tab.locator("#taught [role=alert]")).to_be_visible(timeout=60_000)
    tab.locator("#look").click()
    says(tab, "looks", "Drop a picture first")


def test_two_tabs_at_once(
    browser: Any, address: str, owner: FewShot, files: dict[str, list[Path]], tmp_path: Path
) -> None:
    tabs = [browser.new_context().new_page() for _ in range(2)]
    for page, name in zip(tabs, ("sks", "ohwx"), strict=True):
        page.goto(address)
        page.wait_for_selector("#learn")
        drop(page, "photos", files["photos"][:1])
        write(page, "name", name)
        write(page, "category", "mug")
    for page in tabs:
        page.locator("#learn").click()
    for page, name in zip(tabs, ("sks", "ohwx"), strict=True):
        says(page, "taught", "tinyworld/llava", LEARNING)
        says(page, "taught", name)
    tabs[0].reload()
    says(tabs[0], "concepts", "sks")
    says(tabs[0], "concepts", "ohwx")
    shot(tabs[0], "two-tabs", tmp_path)
    for page in tabs:
        page.context.close()


def test_only_this_machine_is_answered(address: str) -> None:
    import http.client

    host = address.split("//")[1].rstrip("/")
    assert host.startswith("127.0.0.1:")
    for name, status in ((host, 200), ("evil.example", 400)):
        connection = http.client.HTTPConnection(host, timeout=300)
        connection.request("GET", "/", headers={"Host": name})
        answer = connection.getresponse()
        assert answer.status == status
        if status == 200:
            assert "default-src 'self'" in (answer.getheader("content-security-policy") or "")
        connection.close()


def test_it_can_be_stopped(tab: Any, files: dict[str, list[Path]], going: threading.Event) -> None:
    drop(tab, "photos", files["photos"][:2])
    write(tab, "name", "vrr")
    write(tab, "category", "mug")
    going.clear()
    tab.locator("#learn").click()
    playwright.expect(tab.get_by_text("learning vrr").first).to_be_visible(timeout=LEARNING)
    tab.locator("#stop").click()
    says(tab, "taught", "stopped early", LEARNING)
    assert threading.active_count() > 1
