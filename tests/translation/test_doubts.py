"""Translations that something speaks against, and what becomes of them."""

from __future__ import annotations

import pytest

from templora.translation.doubts import Doubts

LONG = "The keeper of the old lamp climbs the stairs every evening to light it again."


@pytest.mark.parametrize(
    ("source", "target", "whole", "said"),
    [
        ("Der Wärter steigt hinauf.", "The keeper climbs up.", True, ""),
        ("Der Wärter steigt hinauf.", "", True, "nothing was written"),
        ("Der Wärter steigt hinauf.", "…!", True, "nothing was written"),
        ("Der Wärter steigt hinauf.", "The keeper climbs and climbs", False, "cut off"),
        ("Der Wärter steigt hinauf.", "der Wärter steigt hinauf", True, "a copy"),
        (LONG, LONG.replace("evening", "Abend"), True, "a copy"),
        ("看守人每天晚上都爬上楼梯。", "看守人每天晚上都爬上楼梯。", True, "a copy"),
        ("看守人每天晚上都爬上楼梯。", "The keeper 爬上楼梯 every evening of his life.", True, ""),
        ("Linux", "Linux", True, "a copy"),
        ("Ein Satz.", "a lamp and a keeper and a lamp and a keeper and a lamp and a keeper", True, "repeats itself"),
        ("Ein Satz über vieles, was es gibt.", LONG, True, ""),
        (LONG, "The tower.", True, "much shorter"),
        ("看守人每天晚上都爬上楼梯。", "The keeper climbs the stairs every evening.", True, ""),
        (LONG, "看守人每天晚上都爬上楼梯，再次点亮那盏旧灯。", True, ""),
        ("看守人每天晚上都爬上楼梯。", "the " + " ".join(f"word{i}" for i in range(70)), True, "much longer"),
    ],
)
def test_what_speaks_against_a_translation(source: str, target: str, whole: bool, said: str) -> None:
    found = Doubts().about(source, target, whole)
    assert found == "" if not said else said in found


def test_one_translation_of_two_sources() -> None:
    doubts = Doubts()
    doubts.add("Der Wärter steigt.", "The light is on the hill.")
    doubts.add("Ja.", "Yes.")
    assert not doubts.about("Der Wärter steigt.", "The light is on the hill.", True)  # the same paragraph again
    assert "another paragraph" in doubts.about("Das Schiff kam.", "The light is on the hill!", True)
    assert not doubts.about("Jawohl.", "Yes.", True)  # short ones may be the same
    assert "another paragraph" in doubts.about("Niemand hatte das jemals gesehen.", "Yes.", True)
