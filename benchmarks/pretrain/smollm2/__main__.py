"""`python -m benchmarks.pretrain.smollm2 --out FOLDER`: train the projector and LoRA of tinyworld/smollm2.

Resumable: `FOLDER/work/` holds a checkpoint; run it again with the same folder to continue. `--adapter FILE`
continues from the adapter of an earlier run, such as the one that ships, with a new optimizer state. Every
picture is new, drawn by the number of its step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Annotated, Any

import numpy as np
import torch
import typer
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.pretrain.corpus import pixels
from benchmarks.pretrain.smollm2.alignment import align
from benchmarks.pretrain.smollm2.chats import answered, draw_chats, draw_talks, talk_scene
from benchmarks.pretrain.smollm2.model import Trained, packed_loss
from benchmarks.pretrain.smollm2.packing import Text, pack
from benchmarks.pretrain.smollm2.texts import draw_texts
from benchmarks.pretrain.training import Schedule, Step
from myvlm.tinyworld.assets import path
from myvlm.tinyworld.language import caption
from myvlm.tinyworld.smollm2.english import as_sentence
from myvlm.tinyworld.smollm2.parts import CHAT_TEMPLATE, load_tokenizer, load_untrained
from myvlm.tinyworld.world.draw import draw_scene
from myvlm.tinyworld.world.scenes import Scene, random_scene

TWINS = 0.15
"""Share of scenes with two objects of one category."""
STANDARD = 500
"""Minimum number of pictures from which the features' mean and standard deviation are estimated."""
SAVE_EVERY = 10
PROJECTOR_RATE, LORA_RATE = 2e-3, 5e-4
ALIGNED_PROJECTOR_RATE = 1e-3
CHATS, TALKS = 480, 240
"""Numbers of replies written by SmolLM2 itself: without a picture, and about pictures."""


def main(
    out: Annotated[Path, typer.Option(help="Folder for the adapter; `work/` in it can be resumed.")],
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    steps: Annotated[int, typer.Option(help="Steps; the rate falls to nothing at their end.")] = 4000,
    batch: Annotated[int, typer.Option(help="Pictures a step, of four texts each.")] = 6,
    aligned: Annotated[int, typer.Option(help="Pictures for the projector's start; 0: a random one.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda …")] = "cuda" if torch.cuda.is_available() else "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    minutes: Annotated[
        float, typer.Option(help="The rate falls to nothing by then at the latest.")
    ] = math.inf,
    bfloat16: Annotated[bool, typer.Option(help="The language model's products in bfloat16.")] = False,
    adapter: Annotated[
        Path | None, typer.Option(help="Where no checkpoint is: start from this adapter, after its steps.")
    ] = None,
) -> None:
    """Train the projector and the LoRA, optionally from an aligned projector, and write the adapter."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    (out / "work").mkdir(parents=True, exist_ok=True)
    schedule = Schedule(
        steps,
        batch,
        1.0,
        out / "work" / "smollm2.pt",
        torch.device(device),
        warmup=20,
        cooling=0.3,
        seconds=60 * minutes,
    )
    model, tokenizer = load_untrained(path("llava")), load_tokenizer()
    chats = answered(out / "work" / "chats.json", model, tokenizer, draw_chats(seed, CHATS), seed=seed)
    talks = answered(out / "work" / "talks.json", model, tokenizer, draw_talks(seed, TALKS, TWINS), seed=seed)
    trained = Trained(model.to(device)).to(device)
    rate = ALIGNED_PROJECTOR_RATE if aligned else PROJECTOR_RATE
    optimiser = torch.optim.AdamW(
        [
            {"params": list(trained.projector.parameters()), "lr": rate, "base": rate},
            {"params": list(trained.lora.parameters()), "lr": LORA_RATE, "base": LORA_RATE},
        ],
        weight_decay=0.0, betas=(0.9, 0.98),
    )  # fmt: skip
    start = schedule.resume(trained, torch.nn.Module(), optimiser)
    if not start:
        scenes = draw_scenes(Random(f"aligned {seed}"), max(aligned, STANDARD))
        seen = features(model, scenes)
        trained.standardise(seen)
        if aligned:
            random = Random(f"captions {seed}")
            captions = [as_sentence(caption(scene, random)) for scene in scenes]
            align(model, trained, tokenizer, seen, captions, seed=seed)
        if adapter:
            with safe_open(adapter, "pt") as made:
                trained.load({name: made.get_tensor(name) for name in made.keys()})  # noqa: SIM118
                start = int(made.metadata()["steps"])
    step = Step(start, {}, trained, torch.nn.Module(), [optimiser])
    schedule.save(step)
    recent: list[float] = []
    begun = time.monotonic()
    for number in range(start, steps):
        if not schedule.left(number):
            break
        scenes, texts = draw_batch(seed, number, batch, chats, talks)
        packed = pack(tokenizer, CHAT_TEMPLATE, texts, model.config.image_seq_length).to(device)
        in_words = [[text.in_words() for text in own if text.teacher] for own in texts]
        words = pack(tokenizer, CHAT_TEMPLATE, in_words, 0).to(device)
        loss = packed_loss(model, trained, features(model, scenes), packed, words, bfloat16=bfloat16)
        schedule.update(loss, [optimiser], number)
        recent = [*recent[-19:], loss.item()]
        step = Step(number + 1, {"loss": loss.item()}, trained, torch.nn.Module(), [optimiser])
        if step.number % SAVE_EVERY == 0:
            schedule.save(step)
            export(out, step, batch)
            pace = (time.monotonic() - begun) / (step.number - start)
            print(
                f"step {step.number} loss {sum(recent) / len(recent):.3f} {pace:.1f} s a step "
                f"{packed.ids.numel()} tokens",
                flush=True,
            )
    schedule.save(step)
    export(out, step, batch)


def export(out: Path, step: Step, batch: int) -> None:
    """Write the adapter that ships, in float16, to a temporary file and rename it into place."""
    partial, made = out / "adapter.partial", {"steps": str(step.number), "batch": str(batch)}
    assert isinstance(step.model, Trained)
    save_file(step.model.adapter(), partial, made)
    partial.replace(out / "adapter.safetensors")


def draw_scenes(random: Random, count: int) -> list[Scene]:
    return [random_scene(random, twins=TWINS) for _ in range(count)]


def draw_batch(
    seed: int, number: int, count: int, chats: Sequence[Text] = (), talks: Sequence[Text] = ()
) -> tuple[list[Scene], list[list[Text]]]:
    """The texts of step `number`; one picture in three also has a chat, and one in three is from a talk."""
    random = Random(f"smollm2 {seed} {number}")
    scenes = draw_scenes(random, count)
    own: list[list[Text]] = [[] for _ in scenes]
    for place in range(count):
        if place % 3 == 0 and chats:
            own[place] = [replace(random.choice(chats), sees=random.random() < 0.5)]
        elif place % 3 == 1 and talks:
            chosen = random.randrange(len(talks))
            scenes[place], own[place] = talk_scene(seed, chosen, TWINS), [talks[chosen]]
    return scenes, [
        [*draw_texts(scene, random), *(text for text in more if text.answer)]
        for scene, more in zip(scenes, own, strict=True)
    ]


@torch.no_grad()
def features(model: Any, scenes: list[Scene], *, at_once: int = 64) -> Tensor:
    """The frozen tower's last hidden states without the class token: B × 64 × width."""
    parts = []
    for start in range(0, len(scenes), at_once):
        drawn = np.stack([np.asarray(draw_scene(scene)) for scene in scenes[start : start + at_once]])
        seen = model.model.vision_tower(pixels(drawn).to(model.device), output_hidden_states=True)
        parts.append(seen.hidden_states[-1][:, 1:])
    return torch.cat(parts)


if __name__ == "__main__":
    typer.run(main)
