"""Fused layers equal the model's own layers where they are used, and leave no trace."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from myvlm.backbones import ConceptRows, backbone_for
from myvlm.backbones.causal.attention import AttentionRecorder
from myvlm.backbones.causal.backbone import CausalBackbone
from myvlm.backbones.causal.fused import FusedLayers, _softmax_output
from myvlm.backbones.causal.prefix_cache import cache_of, stack_prefixes
from tests.support.tiny import pictures, tiny_llava

TEXTS = [("Describe the image.", "a big red mug with one small dog on a table"), ("Where?", "sks")]


@pytest.fixture
def backbone() -> CausalBackbone:
    made = backbone_for(*tiny_llava(), name="tiny")
    assert isinstance(made, CausalBackbone)
    return made


class Learning:
    """Steps on two pictures, and the fused layers that run them."""

    def __init__(self, backbone: CausalBackbone) -> None:
        self.backbone, self.features = backbone, backbone.encode(pictures(2))
        self.prefixes = backbone.prefixes(self.features)
        self.layers: FusedLayers = backbone._fused
        self.direction = torch.randn(2, backbone.dim, generator=torch.Generator().manual_seed(0))

    def losses(self, loss_of: Any, kept: Any) -> Sequence[Tensor]:
        """Cross-entropy, regularizer and the gradient of both."""
        leaf = self.direction.clone().requires_grad_()
        rows = [[ConceptRows(leaf)]] * 2
        loss = loss_of(kept, *zip(*TEXTS, strict=True), rows)
        [gradient] = torch.autograd.grad(loss.cross_entropy + 3 * loss.attention, [leaf])
        return loss.cross_entropy.detach(), loss.attention.detach(), gradient

    def step(self) -> Sequence[Tensor]:
        return self.losses(self.backbone.tail_loss, self.prefixes)

    def agree(self) -> None:
        """A step equals the full pass, where nothing is fused; the next step equals it to the bit."""
        full = self.losses(self.backbone.answer_loss, self.features)
        assert full[1] > 0
        first, second = self.step(), self.step()
        torch.testing.assert_close(first, full, rtol=1e-5, atol=1e-6)
        assert all(map(torch.equal, first, second))


def test_all_norms_and_attentions_are_fused_and_give_the_same(backbone: CausalBackbone) -> None:
    learning = Learning(backbone)
    learning.agree()
    layers = backbone.language_model.config.num_hidden_layers
    assert (len(learning.layers.norms), len(learning.layers.attentions)) == (2 * layers + 1, layers)
    assert len(learning.layers.agrees) == 3 * layers + 1
    assert all(learning.layers.agrees.values())


def test_a_step_runs_the_longest_tail_and_no_more(
    backbone: CausalBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    learning, ran, continued = Learning(backbone), list[tuple[int, ...]](), backbone._run_tail

    def counted(embeds: Tensor, *rest: Any) -> Any:
        ran.append(tuple(embeds.shape[:2]))
        return continued(embeds, *rest)

    monkeypatch.setattr(backbone, "_run_tail", counted)
    learning.step()
    own = [prefix.layout.text for prefix in learning.prefixes]
    rows = [[ConceptRows(learning.direction)]] * 2
    batch = backbone.prompter.teacher_forced(own, *zip(*TEXTS, strict=True), rows)
    assert ran == [(2, batch.ids.shape[1] - len(learning.prefixes[0]))]


def test_a_module_that_computes_otherwise_is_left_to_itself(backbone: CausalBackbone) -> None:
    other_norm, other_attention = backbone._fused.norms[0], backbone._fused.attentions[1]

    class OtherRMSNorm(type(other_norm)):  # type: ignore[misc]
        def forward(self, hidden_states: Tensor) -> Tensor:
            return super().forward(hidden_states) * 1.01

    class OtherAttention(type(other_attention)):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output, weights = super().forward(*args, **kwargs)
            return output + 0.1 * output.detach(), weights  # the gradient is the same

    other_norm.__class__, other_attention.__class__ = OtherRMSNorm, OtherAttention
    learning = Learning(backbone)
    learning.agree()
    agrees = learning.layers.agrees
    assert [one for one, does in agrees.items() if not does] == [other_norm, other_attention]


def test_nothing_of_it_is_left_and_another_thread_meets_the_plain_model(
    backbone: CausalBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    learning = Learning(backbone)
    learning.step()
    norm = learning.layers.norms[0]
    entered = torch.randn(1, 3, norm.weight.shape[0])  # type: ignore[operator,union-attr,index]
    plain, seen = norm(entered), []
    monkeypatch.setattr("myvlm.backbones.causal.fused._fused_norm", lambda module, hidden: hidden * 0)
    recorder = AttentionRecorder(None, torch.zeros(1, 1).long(), torch.zeros(1, 1).long())
    with learning.layers.step(recorder):
        assert "forward" in vars(norm)
        assert not norm(entered).any()
        with FusedLayers(backbone.language_model, None).step(recorder):  # two learn at the same time
            thread = threading.Thread(target=lambda: seen.append(norm(entered)))
            thread.start()
            thread.join()
        assert not norm(entered).any()
    assert torch.equal(seen[0], plain)
    assert torch.equal(norm(entered), plain)
    assert not any("forward" in vars(one) for one in backbone.model.modules())


def test_a_forward_of_somebody_else_is_never_replaced(backbone: CausalBackbone) -> None:
    attention: Any = next(one for one in backbone.model.modules() if type(one).__name__ == "LlamaAttention")
    attention.forward = own = attention.forward
    learning = Learning(backbone)
    learning.agree()
    # all layers are recorded in the same form
    assert not any(learning.layers.agrees[one] for one in learning.layers.attentions)
    assert vars(attention)["forward"] is own
    del attention.forward
    learning.step()
    norm: Any = learning.layers.norms[0]
    norm.forward = own = norm.forward  # set after the layers were checked
    learning.agree()
    assert vars(norm)["forward"] is own


def test_the_tail_has_room_behind_the_prefix_where_attention_is_fused(
    backbone: CausalBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    learning, lengths = Learning(backbone), set()

    def seen(prefixes: Any, longest: int, room: int) -> list[Tensor]:
        lengths.add(room)
        return stack_prefixes(prefixes, longest, room)

    monkeypatch.setattr("myvlm.backbones.causal.backbone.stack_prefixes", seen)
    kept = [part.clone() for prefix in learning.prefixes for part in prefix.parts]
    learning.agree()
    assert 0 not in lengths
    assert learning.layers.room(7) == 7
    assert all(map(torch.equal, kept, (part for prefix in learning.prefixes for part in prefix.parts)))

    learning.layers.agrees[learning.layers.attentions[0]] = False
    lengths.clear()
    learning.agree()
    assert lengths == {0}  # nothing is kept that the model's own attention would copy


def test_prefixes_of_a_batch_lie_at_the_end_of_what_is_kept_for_them(backbone: CausalBackbone) -> None:
    prefixes = backbone.prefixes(backbone.encode(pictures(2)))
    longest = len(prefixes[0]) + 3
    for room in (0, 2):
        past = stack_prefixes(prefixes, longest, room)
        assert {part.shape[2] for part in past} == {longest + room}
        cache = cache_of(list(past), longest)
        for layer, keys, values in zip(cache.layers, past[::2], past[1::2], strict=True):
            assert layer.get_seq_length() == longest
            assert hasattr(layer, "joined") == bool(room)
            assert not keys[:, :, :3].any()
            assert (layer.keys.data_ptr(), layer.values.data_ptr()) == (keys.data_ptr(), values.data_ptr())
        for sample, prefix in enumerate(prefixes):
            assert all(
                torch.equal(whole[sample, :, 3:longest], part)
                for whole, part in zip(past, prefix.parts, strict=True)
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("columns", [5, 700])
def test_a_softmax_over_its_own_rows_is_the_softmax(dtype: torch.dtype, columns: int) -> None:
    rows, gradient = torch.randn(2, 3, 40, columns).to(dtype), torch.randn(2, 3, 40, columns).to(dtype)
    plain = rows.softmax(-1)
    back = torch._softmax_backward_data(gradient, plain, -1, dtype, grad_input=None)
    p = torch.softmax(rows, -1, out=_softmax_output(rows))
    assert p.data_ptr() == rows.data_ptr()
    assert torch.equal(p, plain)
    torch._softmax_backward_data(gradient, p, -1, dtype, grad_input=_softmax_output(gradient))
    assert torch.equal(gradient, back)
