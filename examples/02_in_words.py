"""Introduce an object without learning, find it in an unseen picture, and correct its head.

Runs offline on a CPU in seconds, because nothing is optimized. `introduce` works with any model; `vlm.learn`
under the same name replaces the introduction.
"""

from myvlm import MyVLM
from myvlm.tinyworld import few_shot
from myvlm.tinyworld.fewshot import pictures

kit = few_shot(0)
word = kit.identifier
vlm = MyVLM.from_pretrained("tinyworld/llava")
mug = vlm.introduce(word, kit.photos(), category=kit.category)
print("description:", mug.description)

unseen, without = pictures([kit.present[0], kit.other[0]])
reply = vlm.caption(unseen)
print("caption:    ", reply)
print("verdict:    ", reply.detections[0].verdict)
print("box:        ", vlm.locate(unseen, word).box)
print("absent:     ", vlm.ask(without, f"where is {word} ?").absent)

correction = vlm.correct(without, word, present=False)  # updates the head at once
print("corrected:  ", "yes" if correction.held else "no, the picture is too similar to a photo")
correction.undo()
