"""How the parts of a mean step are told apart."""

import pytest
from motet.engine.profile import Profile, breakdown
from motet.engine.step_times import StepTimes

WITH = StepTimes(
    num_steps=4,
    num_prompt_tokens=8,
    num_generated_tokens=12,
    seconds=0.040,
    stages={"linears": 0.012, "adapters": 0.002, "lm_head": 0.004, "sampling": 0.001},
)


def test_what_linears_take_longer_than_on_the_base_is_the_adapters():
    shown = breakdown(WITH, StepTimes(num_steps=2, seconds=0.016, stages={"linears": 0.005}))
    assert shown.step_ms == pytest.approx(10)
    assert shown.parts_ms == pytest.approx(
        {
            "attention": 0,
            "linears": 2.5,
            "adapters": 0.5 + 0.5,
            "lm_head": 1,
            "small": 0,
            "sampling": 0.25,
            "python": 10 - 4.75,
        }
    )
    assert shown.percent("linears") == pytest.approx(25)


@pytest.mark.parametrize(
    "base", [None, StepTimes(num_steps=4, seconds=0.050, stages={"linears": 0.020})]
)
def test_adapters_never_take_less_than_nothing(base):
    shown = breakdown(WITH, base)
    assert shown.parts_ms["adapters"] == pytest.approx(0.5)
    assert shown.parts_ms["linears"] == pytest.approx(3)
    assert sum(shown.parts_ms.values()) == pytest.approx(shown.step_ms)


def test_tokens_a_second_count_every_step():
    shown = breakdown(WITH, None)
    assert shown.tokens_per_s == pytest.approx(20 / 0.040)
    assert Profile(shown, shown).generated_per_s == pytest.approx(24 / 0.080)
