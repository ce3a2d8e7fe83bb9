"""Teach a frozen vision-language model one mug from four photos, and hear it name the mug elsewhere.

Offline and on a CPU, in less than a minute: the photos and the model are of the embedded tinyworld. With
your own photos and `llava-hf/llava-1.5-7b-hf` the lines are the same.
"""

import tempfile
from pathlib import Path

from myvlm import MyVLM
from myvlm.tinyworld import few_shot
from myvlm.tinyworld.fewshot import pictures

kit = few_shot(0)  # a mug of one user: photos, captions, and unseen pictures to try it on
vlm = MyVLM.from_pretrained("tinyworld/llava")
mug = vlm.learn(kit.identifier, kit.photos(), category="mug", captions=kit.captions())

unseen, without = pictures([kit.present[0], kit.other[0]])
print("with the mug:   ", vlm.caption(unseen))
print("a question:     ", vlm.ask(unseen, f"where is {kit.identifier} ?"))
print("without it:     ", vlm.caption(without))

with vlm.generic():
    print("the plain model:", vlm.caption(unseen))

with tempfile.TemporaryDirectory() as folder:  # a concept is a folder of some kilobytes
    saved = mug.save(Path(folder) / f"{kit.identifier}-mug")
    vlm.concepts.remove(kit.identifier)
    vlm.concepts.add(saved)
    print("from its file:  ", vlm.caption(unseen))
