"""All timings that need a GPU, in one program of at most eight minutes that writes one JSON file.

    python benchmarks/on_gpu.py --out on_gpu.json          # on a GPU
    python benchmarks/on_gpu.py --dry --out on_gpu.json    # small models, anywhere: to try the program

Every part runs in its own process with a time limit: if one fails or times out, the file has its error and
the figures measured so far, and the next part runs. Models and the heads' encoder have their real sizes and
random weights. So heads are unsure of all pictures, and gate timings include many windows:
`windows_a_picture` is their number. Captions have 32 tokens.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import learning_step
import torch
import transformers
import typer
from PIL import Image
from random_models import PRESETS, Preset, photos, shrunk
from waiting import LARGE, SMALL, learned, now, speaking

from myvlm import MyVLM
from myvlm.backbones import backbone_for
from myvlm.heads import features

SECONDS = 460
"""Time limit of all parts together; with startup the program takes less than eight minutes."""
REPEATS, TOKENS, ALBUM = 5, 32, 64
CAPTIONS = [f"sks next to word{number}" for number in range(learning_step.PHOTOS)]
ENCODER = "PE-Core-L-14-336"
"""The default encoder's model on a GPU (`myvlm.heads.encoders.CUDA_ENCODER`)."""
SMALL_ENCODER = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}

Note = Callable[[dict[str, Any]], None]
"""Callback that stores figures as soon as they are measured."""


@dataclass(frozen=True)
class Part:
    """One part of the program.

    Attributes:
        measure: function that measures a preset.
        preset: name of a preset of `random_models`.
        seconds: time limit.
    """

    measure: Callable[[Preset, bool, Note], None]
    preset: str
    seconds: int


@dataclass(frozen=True)
class Thing:
    """The concept that is learned."""

    identifier: str = "sks"
    category: str = "mug"


def main(
    out: Annotated[Path, typer.Option(help="File for the figures.")] = Path("on_gpu.json"),
    dry: Annotated[bool, typer.Option("--dry", help="Small models, on a CPU.")] = False,
    only: Annotated[list[str] | None, typer.Option(help=f"Parts, of {', '.join(NAMES)}.")] = None,
    part: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure all parts, or one, and write the figures."""
    if part:
        run_part(part, out, dry)
        return
    if not dry and not torch.cuda.is_available():
        raise typer.BadParameter("there is no GPU; --dry tries the program with small models.")
    chosen = {name: one for name, one in PARTS.items() if not only or name in only}
    where = "cpu" if dry else torch.cuda.get_device_name()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    figures = measure_all(chosen, out, {"device": where, "dry": dry, **versions}, command(dry))
    print(json.dumps(figures))
    raise typer.Exit(int(any("error" in figures[name] for name in chosen)))


def command(dry: bool) -> Callable[[str, Path], list[str]]:
    """Function that returns the command line to run a part in its own process."""
    given = ["--dry"] if dry else []
    return lambda name, file: [sys.executable, __file__, "--part", name, "--out", str(file), *given]


def measure_all(
    parts: dict[str, Part], out: Path, about: dict[str, Any], command: Callable[[str, Path], list[str]]
) -> dict[str, Any]:
    """Run one part after the other, and write all figures to `out` after each."""
    figures, end = dict(about), time.monotonic() + SECONDS
    with tempfile.TemporaryDirectory() as folder:
        for name, part in parts.items():
            begun, file = time.monotonic(), Path(folder) / f"{name}.json"
            error = _error_of(command(name, file), min(part.seconds, end - begun))
            own = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
            own |= {"error": error} if error else {}
            figures[name] = own | {"part_seconds": round(time.monotonic() - begun, 1)}
            out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
            print(f"{name}: {figures[name]}", file=sys.stderr, flush=True)
    return figures


def _error_of(arguments: list[str], seconds: float) -> str | None:
    """Run a command with a time limit; returns an error message, or None if it succeeded."""
    if seconds < 1:
        return "no time was left for it"
    try:
        done = subprocess.run(
            arguments, timeout=seconds, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
    except subprocess.TimeoutExpired:
        return f"it was not done after {seconds:.0f} s"
    return "\n".join(done.stderr.strip().splitlines()[-8:]) or "it failed" if done.returncode else None


def run_part(name: str, out: Path, dry: bool) -> None:
    """Measure one part in this process, and write its figures as they are measured."""
    figures: dict[str, Any] = {}

    def note(more: dict[str, Any]) -> None:
        figures.update(more)
        whole = out.with_suffix(".new")
        whole.write_text(json.dumps(figures), encoding="utf-8")
        whole.replace(out)  # the file is complete even if this process is killed

    part = PARTS[name]
    preset = PRESETS[part.preset]
    part.measure(shrunk(preset) if dry else preset, dry, note)


# ---------------------------------------------------------------- the parts


def step(preset: Preset, dry: bool, note: Note) -> None:
    """Time a learning step relative to the paper's, generation with rows, and learning an embedding."""
    begun = now()
    backbone = backbone_for(*preset.build("cpu" if dry else "cuda"), name="random")
    note({"build_seconds": round(now() - begun, 3)})
    batch = learning_step.make_batch(preset, preset.samples)
    paper = learning_step.PaperStep(backbone.model, backbone.processor, batch, learning_step.WEIGHT)
    ours = learning_step.our_step(backbone, batch)
    repeats = 1 if dry else REPEATS
    note(learning_step.compare("on_gpu", paper, ours, backbone, repeats))
    del paper, ours
    note(learning_step.generate(backbone, batch, 4 if dry else TOKENS, repeats))
    if not dry:
        note(learning_step.learn(backbone, preset))


def whole(preset: Preset, dry: bool, note: Note) -> None:
    """Time a whole `learn` of small and of large photos, and the gate relative to one and many captions."""
    device = "cpu" if dry else "cuda"
    with tempfile.TemporaryDirectory() as folder:
        encoder = random_encoder(Path(folder), device, dry)
        vlm = MyVLM(*preset.build(device), name="random", encoder=encoder)
        settings = {"steps": 2, "views": 2} if dry else {"steps": 100, "views": 8}
        shown = photos(learning_step.PHOTOS, 2 * SMALL[0])
        sizes = {"": SMALL, "_12mp": (400, 300) if dry else LARGE}
        learned(vlm, Thing(), shown, SMALL, settings={"steps": 1, "views": 1})  # warm-up of encoder and model
        for name, size in sizes.items():
            for suffix, given in (("", {}), ("_captions_given", {"captions": CAPTIONS})):
                seconds = learned(vlm, Thing(), shown, size, settings=settings, **given)
                note({f"learn_whole_seconds{name}{suffix}": seconds})
        vlm.learn("sks", shown, category="mug", captions=CAPTIONS, settings=settings, progress=False)
        length = 4 if dry else TOKENS
        generation = {"max_new_tokens": length, "min_new_tokens": length}
        note(speaking(vlm, shown, 1 if dry else REPEATS, **generation))
        note(album(vlm, photos(4 if dry else ALBUM, SMALL[0]), generation))


def album(vlm: MyVLM, shown: Sequence[Image.Image], generation: dict[str, int]) -> dict[str, float]:
    """Time of the gate relative to captioning, for many pictures in one call."""
    windows, encode = [], features._encode_parts
    features._encode_parts = lambda encoder, parts: windows.append(len(parts)) or encode(encoder, parts)
    try:
        features.forget_pictures()
        times = [now()]
        vlm.concepts.recognise(list(shown))
        times.append(now())
    finally:
        features._encode_parts = encode
    vlm.caption(list(shown), **generation)  # the gate's features are cached
    times.append(now())
    gate, captions = times[1] - times[0], times[2] - times[1]
    return {
        "album_gate_ratio_of_captions": round(gate / captions, 3),
        "album_gate_seconds": round(gate, 3),
        "windows_a_picture": round(sum(windows) / len(shown), 1),
    }


def random_encoder(folder: Path, device: str, dry: bool) -> str:
    """Write an encoder with random weights in the size of the GPU default; returns its name."""
    import open_clip
    from safetensors.torch import save_file

    config = SMALL_ENCODER if dry else open_clip.get_model_config(ENCODER)
    about = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(about), encoding="utf-8")
    torch.manual_seed(0)
    if dry:
        model: Any = open_clip.CLIP(**SMALL_ENCODER)
    else:
        model = open_clip.create_model(ENCODER, precision="bf16", device=device)
    weights = {name: one.contiguous().cpu() for name, one in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


PARTS = {
    "llava-1.5-7b": Part(step, "llava-1.5-7b", 110),
    "whole llava-1.5-7b": Part(whole, "llava-1.5-7b", 170),
    "llava-next-7b": Part(step, "llava-next-7b", 90),
    "blip2-opt-2.7b": Part(step, "blip2-opt-2.7b", 90),
}
NAMES = tuple(PARTS)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        typer.run(main)
