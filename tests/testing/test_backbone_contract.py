"""The contract of backbones tests `Backbone` itself: with a third kind, correct and with one fault each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar
from unittest import SkipTest

import pytest

from myvlm.errors import InputError
from myvlm.testing import (
    BACKBONE_CHECKS,
    BackboneCase,
    check_backbone,
    parametrize_with_checks,
    run_checks,
)
from tests.support.third_kind import EmbedsBackbone
from tests.support.tiny import pictures, tiny_llava

CHECKS = {check.__name__: check for check in BACKBONE_CHECKS}
FAULTS = {
    "plain": "nothing_attached_is_plain",
    "deaf": "rows_change_the_answer",
    "norm": "rows_land_exactly",
    "right": "left_padding_changes_nothing",
    "mixed up": "pictures_are_read_once_for_several_prompts",
    "beams": "cache_changes_nothing",
    "flags": "everything_is_restored",
    "prompt": "learning_reads_the_prompt_of_use",
    "features": "features_give_the_pixels_loss",
    "detached": "gradient_is_the_full_one",
    "map": "attention_map_is_a_map",
    "grid turned": "grid_lies_over_the_picture",
    "grid shifted": "grid_lies_over_the_picture",
    "grid size": "grid_lies_over_the_picture",
    "half": "bfloat16_learns_alike",
    "unchecked": "wrong_inputs_raise",
    "fingerprint": "fingerprint_names_the_weights",
}
UNDECLARED = {
    "kept_prefixes": "kept_prefixes_change_nothing",
    "attention_penalty": "attention_is_eager_attention",
}


def case(kind: type[EmbedsBackbone] = EmbedsBackbone) -> BackboneCase:
    return BackboneCase(kind(*tiny_llava()), pictures(3))


@parametrize_with_checks(BACKBONE_CHECKS, {"embeds": case})
def test_a_third_kind_keeps_the_contract(check: Callable[[], None]) -> None:
    check()


def test_only_what_it_declares_is_skipped() -> None:
    honest = case()
    outcomes = check_backbone(honest.backbone, honest.images)
    skipped = {one.check: one.skipped for one in outcomes if not one.passed}
    assert skipped == {
        UNDECLARED["kept_prefixes"]: "it keeps none",
        UNDECLARED["attention_penalty"]: "it records no attention",
    }
    assert [one.check for one in outcomes] == list(CHECKS)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_fails_its_check(fault: str) -> None:
    # A class of its own, so that copies made by the contract have the fault too.
    faulty = case(type("Faulty", (EmbedsBackbone,), {"fault": fault}))
    with pytest.raises(AssertionError, match=f"^{FAULTS[fault]}: "):
        run_checks([CHECKS[FAULTS[fault]]], faulty, may_skip=faulty.lacks.values())


def test_every_check_fails_on_some_fault() -> None:
    assert {*FAULTS.values(), *UNDECLARED.values()} | {"batch_is_singles"} == set(CHECKS)


@pytest.mark.parametrize("what", UNDECLARED)
def test_what_is_missing_and_not_declared_is_a_failure(what: str) -> None:
    class Silent(EmbedsBackbone):
        lacks: ClassVar[Any] = {key: reason for key, reason in EmbedsBackbone.lacks.items() if key != what}

    silent = case(Silent)
    with pytest.raises(AssertionError, match=f"`lacks` does not declare '{what}'"):
        run_checks([CHECKS[UNDECLARED[what]]], silent, may_skip=silent.lacks.values())


def test_what_is_declared_and_can_be_done_is_a_failure() -> None:
    class Modest(EmbedsBackbone):
        lacks: ClassVar[Any] = {**EmbedsBackbone.lacks, "attention_map": "it is too modest"}

    modest = case(Modest)
    for name in ("attention_map_is_a_map", "grid_lies_over_the_picture"):
        with pytest.raises(AssertionError, match="declares 'attention_map', which the backbone can do"):
            run_checks([CHECKS[name]], modest, may_skip=modest.lacks.values())


def test_all_failures_are_told() -> None:
    class Wrong(EmbedsBackbone):
        fault = "norm"

        def fingerprint(self) -> str:
            return "the same"

    with pytest.raises(AssertionError) as raised:
        check_backbone(Wrong(*tiny_llava()), pictures(3))
    failed = [line.split(":")[0] for line in str(raised.value).splitlines() if line.split(":")[0] in CHECKS]
    assert failed == ["rows_land_exactly", "fingerprint_names_the_weights"]
    assert isinstance(raised.value.__cause__, ExceptionGroup)
    assert len(raised.value.__cause__.exceptions) == 2


def test_a_skip_for_another_reason_is_a_failure() -> None:
    def idle(case: object) -> None:
        raise SkipTest("nothing to check")

    assert not run_checks([idle], None, may_skip=["nothing to check"])[0].passed
    with pytest.raises(AssertionError, match=r"idle: .*undeclared reason: nothing to check"):
        run_checks([idle], None, may_skip=["it keeps none"])


def test_a_case_is_made_when_its_first_check_runs_and_once() -> None:
    made: list[int] = []

    class Case:
        lacks: dict[str, str] = {}  # noqa: RUF012

    def make() -> Case:
        made.append(1)
        return Case()

    def first(case: Case) -> None:
        assert isinstance(case, Case)

    def second(case: Case) -> None:
        raise AssertionError("no")

    mark = parametrize_with_checks([first, second], {"mine": make}).mark
    name, items = mark.args
    assert name == "check"
    assert [item.id for item in items] == ["mine-first", "mine-second"]
    assert made == []
    items[0].values[0]()
    with pytest.raises(AssertionError, match="no"):
        items[1].values[0]()
    assert made == [1]


def test_the_contract_wants_float32_and_three_images() -> None:
    backbone = EmbedsBackbone(*tiny_llava())
    with pytest.raises(InputError, match="2 images"):
        BackboneCase(backbone, pictures(2))
    backbone.model.bfloat16()
    with pytest.raises(InputError, match="bfloat16"):
        check_backbone(backbone, pictures(3))
