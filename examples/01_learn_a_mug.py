"""Learn one mug from four photos, then caption and ask about unseen pictures with a frozen model.

Runs offline on a CPU in less than a minute: photos and model come from the embedded tinyworld. The code is
the same for your own photos and `llava-hf/llava-1.5-7b-hf`.
"""

import tempfile
from pathlib import Path

from myvlm import MyVLM
from myvlm.tinyworld import few_shot
from myvlm.tinyworld.fewshot import pictures

kit = few_shot(0)  # one user's mug: photos, captions and unseen pictures
vlm = MyVLM.from_pretrained("tinyworld/llava")
mug = vlm.learn(kit.identifier, kit.photos(), category="mug", captions=kit.captions())

unseen, without = pictures([kit.present[0], kit.other[0]])
print("with the mug:   ", vlm.caption(unseen))
print("a question:     ", vlm.ask(unseen, f"where is {kit.identifier} ?"))
print("without it:     ", vlm.caption(without))

with vlm.generic():
    print("the plain model:", vlm.caption(unseen))

with tempfile.TemporaryDirectory() as folder:  # a concept is a folder of a few kilobytes
    saved = mug.save(Path(folder) / f"{kit.identifier}-mug")
    vlm.concepts.remove(kit.identifier)
    vlm.concepts.add(saved)
    print("loaded again:   ", vlm.caption(unseen))
