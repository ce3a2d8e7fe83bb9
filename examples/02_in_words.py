"""Make a thing known in words, at once and with any model; find it, and say where its recogniser errs.

Offline and on a CPU, in some seconds: nothing is optimised. `vlm.learn` with the same word takes its place.
"""

from myvlm import MyVLM
from myvlm.tinyworld import few_shot
from myvlm.tinyworld.fewshot import pictures

kit = few_shot(0)
word = kit.identifier
vlm = MyVLM.from_pretrained("tinyworld/llava")
mug = vlm.introduce(word, kit.photos(), category=kit.category)
print("in words:  ", mug.description)

unseen, without = pictures([kit.present[0], kit.other[0]])
reply = vlm.caption(unseen)
print("seen:      ", reply)
print("how sure:  ", reply.detections[0].verdict)
print("where:     ", vlm.locate(unseen, word).box)
print("not there: ", vlm.ask(without, f"where is {word} ?").absent)

correction = vlm.correct(without, word, present=False)  # its head learns that at once
print("corrected: ", "held" if correction.held else "not both can be had")
correction.undo()
