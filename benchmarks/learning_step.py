"""Compare a learning step as in the paper with this library's, on the same random model and batch.

    python benchmarks/learning_step.py --preset cpu

The paper's step (`paper_step.py`) runs the whole model forward and backward and materializes every attention
map, using only transformers' public API; ours starts from the prefix cache of each photo. Losses and
gradients are compared too. Presets of real size need a GPU. The last line is one JSON object. `learn_seconds`
is the wall time of learning from four photos with eight views each in 100 steps, including encoding and
prefixes; with `--preset cpu`, that of a whole concept of `tinyworld/llava`, including its head. `--preset
cpu` also measures the other waiting times of a user (`waiting.py`).
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any

import torch
import transformers
import typer
from paper_step import PROMPTS, Batch, PaperStep
from random_models import PRESETS, Preset, photos
from rich.console import Console
from rich.table import Table
from waiting import Step, launches_per_layer, waiting

from myvlm import LearnSettings, MyVLM
from myvlm.backbones import Backbone, ConceptRows, backbone_for
from myvlm.errors import UnknownBackboneError
from myvlm.images import load_images
from myvlm.learning import gather_examples, learn_embedding
from myvlm.learning.view_cache import LiveBytes
from myvlm.tinyworld import few_shot

PHOTOS, WEIGHT = 4, 0.25
WARM_UP = 3
"""Untimed steps of each side; after them, ours are replayed as a CUDA graph on a GPU."""


def main(
    preset: Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}.")] = "cpu",
    repeats: Annotated[int, typer.Option(min=1, help="Timed steps of each side.")] = 5,
    whole: Annotated[bool, typer.Option("--learn/--no-learn", help="Also learn a whole concept.")] = True,
    tokens: Annotated[int, typer.Option(min=0, help="New tokens of generation; 0: not measured.")] = 32,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also say where our step spends its time.")
    ] = False,
) -> None:
    """Measure, print the table and, as the last line, one JSON object."""
    chosen = choose(preset)
    device = "cuda" if chosen.gpu else "cpu"
    model, processor = chosen.build(device)
    try:
        backbone = backbone_for(model, processor, name=f"random/{preset}")
    except UnknownBackboneError as error:
        raise typer.BadParameter(f"{preset}: no adapter for this family is installed.\n{error}") from error
    batch = make_batch(chosen, chosen.samples)
    paper = PaperStep(model, processor, batch, WEIGHT)
    ours = our_step(backbone, batch)
    figures = compare(preset, paper, ours, backbone, repeats)
    if profile:
        print(where_time_goes(backbone, ours))
    figures |= generate(backbone, batch, tokens, repeats) if tokens else {}
    if whole:
        figures |= learn(backbone, chosen) if chosen.gpu else learn_tinyworld() | waiting(repeats)
    if not chosen.gpu:
        figures["launches_per_layer"] = launches_per_layer(chosen, preset_step)
    order = (
        "step_ratio", "loss_difference", "gradient_difference", "learn_seconds", "peak_over_weights",
        "generate_ratio", "limit_part", "learn_whole_seconds", "learn_whole_seconds_12mp",
        "launches_per_layer", "gate_ratio_of_caption", "ms_per_token",
    )  # fmt: skip
    print(json.dumps({name: figures.get(name) for name in order}))


def choose(preset: str) -> Preset:
    """Return a preset by its name, if it exists and this machine can run it."""
    if preset not in PRESETS:
        raise typer.BadParameter(f"{preset!r} is no preset: there are {', '.join(PRESETS)}.")
    chosen = PRESETS[preset]
    if chosen.gpu and not torch.cuda.is_available():
        raise typer.BadParameter(f"{preset} is of real size and needs a GPU; --preset cpu runs anywhere.")
    return chosen


def make_batch(preset: Preset, samples: int) -> Batch:
    """A batch of at most four noise photos, with instructions and answers of different lengths."""
    prompts = ["Describe the image.", "Describe the mug.", "Describe sks.", "Describe the image."]
    answers = [
        " ".join(
            ["sks", *(f"word{(7 * sample + place) % 200}" for place in range(preset.answer - sample - 1))]
        )
        for sample in range(samples)
    ]
    return Batch(photos(samples, preset.side), prompts[:samples], answers)


def our_step(backbone: Backbone, batch: Batch) -> Step:
    """The objective computed from cached prefixes, or from visual features in families without prefixes."""
    features = backbone.encode(batch.images)
    prefixes = backbone.prefixes(features)
    loss_of = backbone.answer_loss
    if prefixes:
        loss_of = backbone.tail_losses(list(zip(batch.prompts, batch.answers, strict=True)), 1)

    def step(direction: torch.Tensor) -> torch.Tensor:
        rows = [[ConceptRows(direction)]] * len(batch.images)
        loss = loss_of(prefixes or features, batch.prompts, batch.answers, rows)
        return loss.cross_entropy + WEIGHT * loss.attention

    return step


def preset_step(preset: Preset) -> tuple[Step, int]:
    """Our step on a preset's model on the CPU, and the width of the row that it takes."""
    backbone = backbone_for(*preset.build("cpu"), name="random")
    step = our_step(backbone, make_batch(preset, preset.samples))

    def frozen(direction: torch.Tensor) -> torch.Tensor:
        with backbone.frozen():
            return step(direction)

    return frozen, backbone.dim


# ---------------------------------------------------------------- both sides


def compare(
    preset: str, paper: PaperStep, ours: Step, backbone: Backbone, repeats: int
) -> dict[str, float | None]:
    """Compare loss, gradient, time and memory of both steps."""
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(1, backbone.dim, generator=generator).to(backbone.device).requires_grad_()
    with backbone.frozen():
        losses, gradients, peaks = [], [], []
        for side in (paper.loss, ours):
            with LiveBytes(backbone.device.type) as memory:
                both(side, direction)
            for _ in range(WARM_UP):
                loss, gradient = both(side, direction)
            losses.append(loss)
            gradients.append(gradient)
            peaks.append(memory.peak)
        times = interleaved([lambda: both(paper.loss, direction), lambda: both(ours, direction)], repeats)
    table = Table("", "the paper's", "ours", title=f"{preset}: {len(paper.ids)} samples, T = {paper.length}")
    table.add_row("seconds a step", *(f"{seconds:.4f}" for seconds in times))
    table.add_row("peak memory of a step, MiB", *(f"{peak / 2**20:.1f}" for peak in peaks))
    table.add_row("loss", *(f"{loss.item():.7f}" for loss in losses))
    table.add_row("norm of the gradient", *(f"{gradient.norm().item():.4e}" for gradient in gradients))
    table.add_row("ratio of times", "", f"{times[0] / times[1]:.2f}")
    console = Console(width=100)
    console.print(f"{where(backbone)}; {parameters(backbone.model) / 1e6:.0f} M weights, {backbone.dtype}")
    console.print(table)
    return {
        "step_ratio": round(times[0] / times[1], 3),
        "step_ms": round(1000 * times[1], 2),
        "loss_difference": ((losses[1] - losses[0]).abs() / losses[0].abs()).item(),
        "gradient_difference": ((gradients[1] - gradients[0]).norm() / gradients[0].norm()).item(),
        "limit_part": limit_part(backbone, times[1]),
    }


def where_time_goes(backbone: Backbone, ours: Step) -> str:
    """Profile of one warm step: the operations with the most CPU time and, if there is a GPU, GPU time."""
    direction = torch.ones(1, backbone.dim, device=backbone.device, requires_grad=True)
    orders = ["self_cpu_time_total", *(["self_device_time_total"] if torch.cuda.is_available() else [])]
    with backbone.frozen():
        for _ in range(WARM_UP):
            both(ours, direction)
        with torch.profiler.profile() as seen:
            both(ours, direction)
            synchronize()
    return "\n".join(seen.key_averages().table(sort_by=order, row_limit=25) for order in orders)


def both(side: Step, direction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Run forward and backward; returns loss and gradient."""
    loss = side(direction)
    [gradient] = torch.autograd.grad(loss, [direction])
    return loss.detach(), gradient


def interleaved(sides: list[Callable[[], Any]], repeats: int) -> list[float]:
    """Median seconds of each side; sides alternate, so that other load on the machine affects them alike."""
    seconds: list[list[float]] = [[] for _ in sides]
    for _ in range(repeats):
        for side, times in zip(sides, seconds, strict=True):
            synchronize()
            begun = time.perf_counter()
            side()
            synchronize()
            times.append(time.perf_counter() - begun)
    return [statistics.median(times) for times in seconds]


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def limit_part(backbone: Backbone, seconds: float) -> float | None:
    """Speed relative to the memory bound: a GPU that only reads the language model's weights twice."""
    if backbone.device.type != "cuda":
        return None
    source = torch.empty(2**30, dtype=torch.uint8, device=backbone.device)
    target = torch.empty_like(source)
    target.copy_(source)
    [copying] = interleaved([lambda: target.copy_(source)], 9)
    bandwidth = 2 * source.nbytes / copying  # read and written
    language = getattr(backbone.model, "language_model", None) or backbone.model.model.language_model
    weights = {id(one): one.nbytes for one in language.parameters()}
    head = backbone.model.get_output_embeddings().weight
    weights[id(head)] = head.nbytes  # tied to the embedding table in some families, and then counted already
    return round(2 * sum(weights.values()) / bandwidth / seconds, 4)


# ---------------------------------------------------------------- the whole


def learn(backbone: Backbone, preset: Preset) -> dict[str, float | None]:
    """Learn an embedding from four photos on a GPU, including encoding and prefixes."""
    batch = make_batch(preset, PHOTOS)
    examples = gather_examples("sks", load_images(list(batch.images)), list(batch.answers))
    settings = LearnSettings(steps=100, views=8, regularizer=WEIGHT)
    weights = sum(weight.nbytes for weight in backbone.model.parameters())
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    synchronize()
    begun = time.perf_counter()
    learn_embedding(backbone, examples, settings, words=("sks", "mug"))
    synchronize()
    seconds = time.perf_counter() - begun
    peak = (torch.cuda.max_memory_allocated() - held) / weights
    return {"learn_seconds": round(seconds, 3), "peak_over_weights": round(peak, 4)}


def learn_tinyworld() -> dict[str, float | None]:
    """Seconds to learn a whole concept with `MyVLM.learn`; model and encoder are loaded before."""
    kit, other = few_shot(0), few_shot(1)
    vlm = MyVLM.from_pretrained("tinyworld/llava", device="cpu")
    for one, settings in ((other, LearnSettings(steps=1, views=1)), (kit, None)):
        begun = time.perf_counter()
        vlm.learn(
            one.identifier, one.photos(), category=one.category, captions=one.captions(),
            questions=one.questions(), settings=settings, progress=False,
        )  # fmt: skip
    return {"learn_seconds": round(time.perf_counter() - begun, 3)}


def generate(backbone: Backbone, batch: Batch, tokens: int, repeats: int) -> dict[str, float]:
    """Time of generation with one concept relative to plain transformers, for `tokens` new tokens."""
    length = {"max_new_tokens": tokens, "min_new_tokens": tokens}
    image, prompt = list(batch.images[:1]), [batch.prompts[0]]
    rows = [[ConceptRows(torch.randn(1, backbone.dim, generator=torch.Generator().manual_seed(1)))]]

    def taught() -> Any:
        return backbone.generate(image, prompt, rows, **length)

    def plain() -> Any:
        text = [PROMPTS[backbone.model.config.model_type].format(prompt[0])]
        inputs = backbone.processor(images=image, text=text, return_tensors="pt")
        inputs = inputs.to(backbone.device, backbone.dtype)
        return backbone.model.generate(**inputs, **length, do_sample=False, num_beams=1)

    for side in (taught, plain):
        side()
    seconds = interleaved([taught, plain], repeats)
    return {
        "generate_ratio": round(seconds[0] / seconds[1], 4),
        "row_ms_per_token": round(1000 * seconds[0] / tokens, 2),
    }


def where(backbone: Backbone) -> str:
    device = f"CPU, {torch.get_num_threads()} threads"
    if backbone.device.type == "cuda":
        device = torch.cuda.get_device_name()
    return f"{device}, torch {torch.__version__}, transformers {transformers.__version__}"


def parameters(model: Any) -> int:
    return sum(weight.numel() for weight in model.parameters())


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        typer.run(main)
