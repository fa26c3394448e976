"""Whether learning one's own translations does harm, found out every few paragraphs."""

from __future__ import annotations

import pytest

from templora.translation.quality.control import Control


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
    control = Control()
    for difference in found:
        control.add(difference)
    assert control.harm == harm
