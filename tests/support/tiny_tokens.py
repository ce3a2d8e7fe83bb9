"""A small byte-level BPE tokenizer, built in process, and the chat templates of real checkpoints."""

from __future__ import annotations

from functools import cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = (
    "a photo of sks on the table, and a mug next to it.\nDescribe the image. What is next to sks? Where?\n\n"
    "USER: it is red\nASSISTANT: the dog of Anna\n\n\nuser\nassistant model User: Assistant: helpful"
)
CHATML = ["<|im_start|>", "<|im_end|>"]
QWEN = [*CHATML, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
GEMMA = ["<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"]
SMOLVLM = [
    *("<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>"),
    *(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)),
]


@cache
def _core(special: tuple[str, ...]) -> str:
    """A trained tokenizer as JSON; runs of line breaks are tokens, as in real vocabularies."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + len(special) + 60,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([CORPUS] * 3, trainer)
    return str(core.to_str())


def bpe_tokenizer(
    special: list[str],
    *,
    bos: str | None = None,
    eos: str = "</s>",
    unk: str | None = None,
    adds_bos: bool = False,
    named: dict[str, str] | None = None,
) -> PreTrainedTokenizerFast:
    """A tokenizer with these special tokens.

    Args:
        bos: beginning of sequence; Qwen and InternVL have none.
        adds_bos: whether the tokenizer itself prepends `bos`.
        named: attributes of the tokenizer that processors look for, such as `image_token`.
    """
    tokens = ("<pad>", "</s>", *([bos] if bos else []), *special)
    core = Tokenizer.from_str(_core(tokens))
    if adds_bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B:1", special_tokens=[(bos, tokens.index(bos or ""))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token=eos,
        bos_token=bos,
        unk_token=unk,
        extra_special_tokens=named or {},
        padding_side="right",
    )


SYSTEM = ["If a question ", "is not clear, ", "ask what ", "is meant. "]
"""The text that Mistral's checkpoint adds before every prompt: some 2,300 letters, some hundred tokens."""

_PARTS = "{% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE{% else %}{{ c['text'] }}{% endif %}"
_REPLY = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TEMPLATES = {
    "vicuna": (
        "{% for m in messages %}{{ m['role'].upper() + ': ' }}" + _PARTS.replace("IMAGE", "<image>\n")
        + "{% endfor %}{{ ' ' }}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    ),
    "mistral": (
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' }}{% endif %}"
        + _PARTS.replace("IMAGE", "<image>\n")
        + "{% endfor %}{% if m['role'] == 'user' %}{{ ' [/INST]' }}{% else %}{{ '</s>' }}{% endif %}"
        "{% endfor %}"
    ),
    "onevision": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ' ' }}"
        "{% for c in m['content'] if c['type'] == 'image' %}<image>{% endfor %}"
        "{% for c in m['content'] if c['type'] == 'text' %}{{ '\n' + c['text'] }}{% endfor %}"
        "{{ '<|im_end|>' }}{% endfor %}" + _REPLY
    ),
    "qwen": (
        "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\n"
        "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ m['role'] }}\n"
        + _PARTS.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
        + "{% endfor %}<|im_end|>\n{% endfor %}" + _REPLY
    ),
    "internvl": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
        + _PARTS.replace("IMAGE", "{{ '<IMG_CONTEXT>\n' }}")
        + "{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}" + _REPLY
    ),
    "gemma": (
        "{{ bos_token }}{%- for m in messages -%}"
        "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' }}"
        "{%- for c in m['content'] -%}{%- if c['type'] == 'image' -%}{{ '<start_of_image>' }}"
        "{%- else -%}{{ c['text'] | trim }}{%- endif -%}{%- endfor -%}{{ '<end_of_turn>\n' }}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
    ),
    "mistral3": (
        "{{ bos_token }}[SYSTEM_PROMPT]You are helpful.\n{{ 'Today is ' + strftime_now('%Y-%m-%d') }}.\n"
        + "".join(SYSTEM) * 45
        + "[/SYSTEM_PROMPT]{% for m in messages %}"
        "{% if m['role'] == 'user' %}[INST]{% endif %}"
        + _PARTS.replace("IMAGE", "[IMG]")
        + "{% endfor %}{% if m['role'] == 'user' %}[/INST]{% else %}{{ eos_token }}{% endif %}{% endfor %}"
    ),
    "llama3 vision": (
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
        + _PARTS.replace("IMAGE", "<|image|>")
        + "{% endfor %}<|eot_id|>{% endfor %}{% if add_generation_prompt %}"
        "<|start_header_id|>assistant<|end_header_id|>{{ '\n\n' }}{% endif %}"
    ),
    "glm4v": (
        "[gMASK]<sop>{% for m in messages %}{{ '<|' + m['role'] + '|>\n' }}"
        + _PARTS.replace("IMAGE", "<|begin_of_image|><|image|><|end_of_image|>")
        + "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    ),
    "molmo": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
        + _PARTS.replace("IMAGE", "<|image|>")
        + "{% endfor %}<|im_end|>\n{% endfor %}" + _REPLY
    ),
    "smolvlm": (
        "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}"
        "{% if m['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
        + _PARTS.replace("IMAGE", "<image>")
        + "{% endfor %}<end_of_utterance>\n{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    ),
}  # fmt: skip
