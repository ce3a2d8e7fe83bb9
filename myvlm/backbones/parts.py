"""Checks that the arguments are a vision-language model and its processor, and unwraps wrapped models."""

from __future__ import annotations

from typing import Any

from myvlm.errors import BackboneError, InputError, UnknownBackboneError


def unwrapped(model: Any) -> Any:
    """The transformers model without the wrappers of PEFT and `torch.compile`; its adapters stay active.

    Raises:
        BackboneError: the model was compiled in place, so hooks would be ignored, or PEFT's virtual tokens
            would be lost without the wrapper.
        UnknownBackboneError: it is a language model without vision.
    """
    model = getattr(model, "_orig_mod", model)  # the wrapper of torch.compile
    if hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
        _refuse_virtual_tokens(model)
        model = getattr(model.get_base_model(), "_orig_mod", model.get_base_model())
    if getattr(model, "_compiled_call_impl", None) is not None:
        raise BackboneError(
            "The model was compiled in place, which disables the hooks that insert concept rows.",
            got=f"{type(model).__name__} after model.compile()",
            expected="an uncompiled model, or torch.compile(model), whose original model is used",
            fix="do not call model.compile()",
        )
    if hasattr(model, "generate") and hasattr(model, "config") and _is_text_only(model.config):
        raise UnknownBackboneError(
            "The model is a language model without image input.",
            got=f"{type(model).__name__}, model_type {model.config.model_type!r}",
            expected="a vision-language model",
            fix="load it with AutoModelForImageTextToText, and pass the whole model",
        )
    return model


def _refuse_virtual_tokens(model: Any) -> None:
    """Raise BackboneError for PEFT's prompt and prefix tuning, whose weights exist only in the wrapper."""
    learned = getattr(model, "active_peft_config", None)
    if getattr(learned, "is_prompt_learning", False):
        raise BackboneError(
            "PEFT keeps virtual tokens in its wrapper; without the wrapper they would be lost.",
            got=f"{type(model).__name__} with {type(learned).__name__}",
            expected="an adapter in the model's layers, such as LoRA, or none",
            fix="pass model.get_base_model(), the model without them",
        )


def check_processor(processor: Any) -> None:
    """Raise InputError unless the processor contains both a tokenizer and an image processor.

    >>> check_processor("llava")
    Traceback (most recent call last):
    myvlm.errors.InputError: This is not the processor of a vision-language model.
    ...
    """
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise InputError(
            "This is not the processor of a vision-language model.",
            got=type(processor).__name__,
            expected="a processor with `image_processor` and `tokenizer`",
            fix="pass AutoProcessor.from_pretrained(name), not a tokenizer or an image processor alone",
        )


def _is_text_only(config: Any) -> bool:
    """Whether transformers lists the model type as a language model and not as image-text-to-text."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as of_text
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as of_both

    kind = config.model_type
    return kind in of_text and kind not in of_both and not hasattr(config, "vision_config")
