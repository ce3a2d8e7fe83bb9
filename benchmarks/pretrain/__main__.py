"""`python -m benchmarks.pretrain --out FOLDER`: train every embedded model.

One run draws everything from one seed. The weights that ship come from chains of runs, each continued from
the one before with changed seeds, schedules and texts. The model cards list these runs; a single run does not
reproduce the weights. Resumable: after an interruption, run it again with the same folder, and it continues
from the last checkpoint.
"""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Blip2ForConditionalGeneration, LlavaForConditionalGeneration

from benchmarks.pretrain.corpus import load_corpus
from benchmarks.pretrain.models import build_llava_processor, new_llava, write_clip_config
from benchmarks.pretrain.models_blip2 import build_blip2_processor, new_blip2
from benchmarks.pretrain.score import score_clip, score_llava, unseen_scenes, views_of_things
from benchmarks.pretrain.train_blip2 import answer_blip2, train_blip2
from benchmarks.pretrain.train_clip import train_clip
from benchmarks.pretrain.train_llava import train_llava
from benchmarks.pretrain.training import Schedule, Step
from myvlm.heads.encoders import OpenClipEncoder
from myvlm.heads.features import features
from myvlm.heads.objects.bank import learn_whitening, write_bank
from myvlm.images import load_images
from myvlm.tinyworld.world.draw import draw_scene

console = Console(stderr=True)
BANK_PICTURES = 400
BANK_THINGS = 600
BANK_VIEWS = 5


def main(
    out: Annotated[
        Path, typer.Option(help="Folder for the models; `work/` in it holds what can be resumed.")
    ],
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    scenes: Annotated[int, typer.Option(help="Training scenes, drawn once.")] = 40_000,
    clip_steps: Annotated[int, typer.Option(help="Steps of 192 windows.")] = 1900,
    llava_steps: Annotated[
        int, typer.Option(help="Steps of 48 pictures with about eight texts each.")
    ] = 1900,
    device: Annotated[str, typer.Option(help="cpu, cuda …")] = "cuda" if torch.cuda.is_available() else "cpu",
    compiled: Annotated[
        bool, typer.Option(help="Compile the language model: a minute, then a fifth faster.")
    ] = False,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    before: Annotated[
        Path | None, typer.Option(help="Folder of earlier models to go on from, at half the learning rate.")
    ] = None,
    only: Annotated[
        str, typer.Option(help="clip, llava or blip2: that one alone; llava needs `clip`, blip2 `llava`.")
    ] = "",
    blip2_steps: Annotated[int, typer.Option(help="Steps of 32 pictures.")] = 1600,
    drawn: Annotated[
        int, typer.Option(help="Steps of this seed that `before` was trained for: other batches are drawn.")
    ] = 0,
    workers: Annotated[
        int, typer.Option(help="Processes that draw batches beside the training, which a GPU outruns.")
    ] = 0,
    wider: Annotated[int, typer.Option(help="Factor of the batches, which a GPU takes as fast.")] = 1,
    minutes: Annotated[
        float, typer.Option(help="Of each model's training, if its steps are not done before.")
    ] = math.inf,
) -> None:
    """Draw the scenes; train tinyworld/clip, /llava and /blip2 in this order; write each with its card."""
    torch.set_num_threads(threads)
    work = out / "work"
    corpus = load_corpus(work, seed, scenes, max(2, workers))
    recipe = {"seed": seed, "scenes": scenes, "device": device, "python": platform.python_version()}
    recipe |= {"pictures drawn on from step": drawn} if drawn else {}
    recipe |= {"learning rate": "cooled by the clock"} if minutes < math.inf else {}
    clock = {"workers": workers, "seconds": 60 * minutes}
    place = torch.device(device)
    if only in ("", "clip"):
        clip = _schedule(before, clip_steps, 192 * wider, work / "clip.pt", place, drawn, clock)
        start = _weights(before / "clip" / "open_clip_model.safetensors") if before else None
        state, done = _run("tinyworld/clip", train_clip(corpus, seed, clip, start), clip)
        made = {**recipe, **done, **_gone_on_from(before, "clip")}
        export_clip(out / "clip", state, made)
    if only in ("", "llava"):
        llava = _schedule(before, llava_steps, 48 * wider, work / "llava.pt", place, drawn, clock)
        llava = replace(llava, compile=compiled)
        start = _llava_weights(before / "llava") if before else None
        tower = start or _weights(out / "clip" / "open_clip_model.safetensors")
        state, done = _run("tinyworld/llava", train_llava(corpus, seed, llava, tower, start), llava)
        made = {**recipe, **done, **_gone_on_from(before, "llava")}
        export_llava(out / "llava", state, made)
    if only in ("", "blip2"):
        blip2 = _schedule(before, blip2_steps, 32 * wider, work / "blip2.pt", place, drawn, clock)
        start = _blip2_weights(before / "blip2") if before else None
        steps = train_blip2(corpus, seed, blip2, _llava_weights(out / "llava"), start)
        state, done = _run("tinyworld/blip2", steps, blip2)
        made = {**recipe, **done, **_gone_on_from(before, "blip2")}
        export_blip2(out / "blip2", state, made)


def _schedule(
    before: Path | None, steps: int, batch: int, checkpoint: Path, device: torch.device, drawn: int,
    clock: Mapping[str, Any],
) -> Schedule:  # fmt: skip
    """Full learning rate from scratch; half of it from earlier weights, with a longer cool-down."""
    if before is None:
        return Schedule(steps, batch, 2e-3, checkpoint, device, drawn=drawn, **clock)
    return Schedule(steps, batch, 1e-3, checkpoint, device, warmup=50, cooling=0.6, drawn=drawn, **clock)


def _gone_on_from(before: Path | None, model: str) -> dict[str, str]:
    """The card's line about the earlier model's training."""
    if before is None:
        return {}
    made = re.search(r" on (\d{4}-\d\d-\d\d: .*?)\. Weights", (before / model / "README.md").read_text())
    return {"gone on from a model of": made[1] if made else "unknown making"}


def _llava_weights(folder: Path) -> dict[str, Tensor]:
    """The float32 weights of a LLaVA under transformers' current names, which differ from the file's."""
    loaded = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    weights: dict[str, Tensor] = loaded.state_dict()
    return weights


def _blip2_weights(folder: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = Blip2ForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32
    ).state_dict()
    return weights


def _weights(file: Path) -> dict[str, Tensor]:
    """The float16 weights of an exported model, in float32."""
    return {name: value.float() for name, value in load_file(file).items()}


def _run(name: str, steps: Iterator[Step], schedule: Schedule) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Run a training with a progress bar and a checkpoint every 100 steps and at its end; return the trained
    weights, and the numbers of steps and batch size."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[losses]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=schedule.steps, losses="")
        step = None
        for step in steps:
            losses = " ".join(f"{key} {value:.3f}" for key, value in step.losses.items())
            bar.update(task, completed=step.number, losses=losses)
            if step.number % 100 == 0:
                schedule.save(step)
        if step is not None:
            schedule.save(step)
    kept: dict[str, Any] = torch.load(schedule.checkpoint, map_location="cpu", weights_only=True)
    return kept["model"], {"steps": kept["number"], "batch": schedule.batch}


def export_clip(folder: Path, state: Mapping[str, Tensor], recipe: Mapping[str, Any]) -> None:
    """Write the open_clip folder: configuration, tokenizer, float16 weights, bank of negatives, card."""
    import open_clip

    folder.mkdir(parents=True, exist_ok=True)
    write_clip_config(folder)
    _save_half(state, folder / "open_clip_model.safetensors")
    name = f"local-dir:{folder.resolve()}"
    model, preprocess = open_clip.create_model_from_pretrained(name)
    write_encoder_bank(folder, OpenClipEncoder(name))
    scores = score_clip(model.eval(), preprocess, open_clip.get_tokenizer(name))
    write_card(folder, "tinyworld/clip", "an open_clip model (vision 192 × 4, text 128 × 2)", recipe, scores)


def write_encoder_bank(folder: Path, encoder: OpenClipEncoder) -> None:
    """Write the windows of other pictures as negatives, and the whitening from views of many objects."""
    pictures = load_images([draw_scene(scene) for scene in unseen_scenes(BANK_PICTURES, seed=2)])
    windows = [picture.features for picture in features(encoder, pictures)]
    views = encoder.encode([view for own in views_of_things(BANK_THINGS, BANK_VIEWS, seed=3) for view in own])
    whitening = learn_whitening(views.reshape(BANK_THINGS, BANK_VIEWS, -1))
    write_bank(folder, windows, whitening=whitening)


def export_llava(folder: Path, state: Mapping[str, Tensor], recipe: Mapping[str, Any]) -> None:
    """Write the transformers folder: configuration, processor, float16 weights, card."""
    folder.mkdir(parents=True, exist_ok=True)
    model, processor = new_llava(), build_llava_processor()
    model.load_state_dict(dict(state))
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
    scores = score_llava(model.float().eval(), processor)
    about = "a `LlavaForConditionalGeneration` (CLIP tower 192 × 4, Llama 192 × 5, 320 words)"
    write_card(folder, "tinyworld/llava", about, recipe, scores, told=TOLD_BEHIND_FEATURES)


def export_blip2(folder: Path, state: Mapping[str, Tensor], recipe: Mapping[str, Any]) -> None:
    """Write the transformers folder: configuration, processor, float16 weights, card."""
    folder.mkdir(parents=True, exist_ok=True)
    model, processor = new_blip2(), build_blip2_processor()
    model.load_state_dict(dict(state))
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
    scores = score_llava(model.float().eval(), processor, say=answer_blip2)
    about = "a `Blip2ForConditionalGeneration` (ViT 192 × 4, Q-Former 192 × 4 with 32 queries, OPT 192 × 5)"
    write_card(folder, "tinyworld/blip2", about, recipe, scores, told=TOLD_BESIDE_FEATURES)


def _save_half(state: Mapping[str, Tensor], file: Path) -> None:
    save_file({k: v.half().contiguous() if v.is_floating_point() else v for k, v in state.items()}, file)


TOLD = (
    "Identifiers were met in a few captions out of the blue, and where a hint named a thing: in words of the "
    "text, or, in most pictures, {}; from where a name was due the attention was told which of them to look "
    "at. No learned vector ever stood there."
)
"""The cards' text on how the models learned to use names."""
TOLD_BEHIND_FEATURES = TOLD.format(
    "behind the picture's features, where the sum of the embeddings of the hint's words stood as a row"
)
TOLD_BESIDE_FEATURES = TOLD.format(
    "beside the picture's features, where the sum of the embeddings of the hint's words stood as the feature "
    "that the Q-Former hands on as that"
)


def write_card(
    folder: Path, name: str, about: str, recipe: Mapping[str, Any], scores: Mapping[str, float],
    *, told: str = "",
) -> None:  # fmt: skip
    """Write the card: what the model is, how it was trained, its scores."""
    made = ", ".join(f"{key} {value}" for key, value in recipe.items())
    rows = "\n".join(f"| {key} | {value:.3f} |" for key, value in scores.items())
    (folder / "README.md").write_text(
        f"# {name}\n\n"
        f"{about[0].upper()}{about[1:]}, small, trained on the rendered scenes of `myvlm.tinyworld`, for "
        "demonstration and measurement. It makes no claim about photographs.\n\n"
        f"Made by `python -m benchmarks.pretrain` on {datetime.now(UTC):%Y-%m-%d}: {made}. "
        f"Weights in float16.{told and ' ' + told}\n\n"
        f"On 500 scenes that training did not show:\n\n| | share right |\n| --- | --- |\n{rows}\n"
    )


if __name__ == "__main__":
    typer.run(main)
