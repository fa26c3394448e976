"""Whether learning one's own translations does harm, found out every few paragraphs."""

from __future__ import annotations

import pytest

from templora.translation.quality.control import Control


def lost(source: str, target: str) -> float:
    return float(target)


def test_the_better_one_is_the_one_that_loses_less() -> None:
    control = Control(lost)
    assert control.compare("a", "2", "0.5") == 1.5
    assert control.compare("a", "0.5", "2") == -1.5
    assert Control(lambda source, target: 1 / 0).compare("a", "same", "same") == 0  # nobody need be asked


@pytest.mark.parametrize(
    ("found", "harm"),
    [
        ([0.2] * 7, False),  # too few
        ([0.2] * 8, True),
        ([0.05] * 8, False),  # no difference to speak of
        ([9.0] + [-0.1] * 7, False),  # one counts as one
        ([-9.0] + [0.4] * 8, True),  # long ago
        ([-0.5] * 20, False),
    ],
)
def test_harm_is_what_several_say(found: list[float], harm: bool) -> None:
    control = Control(lost)
    for difference in found:
        control.add(difference)
    assert control.harm == harm
