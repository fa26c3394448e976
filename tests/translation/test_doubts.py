"""Translations that something speaks against, and what becomes of them."""

from __future__ import annotations

import pytest

from templora.translation.languages import Language, foreign, language
from templora.translation.quality.doubts import Doubts

ENGLISH = language("to", "en")
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
        ("看守人每天晚上都爬上楼梯。", "Now, the keeper 每天晚上都爬上楼梯。", True, "a copy"),
        ("1.1.6. 虚拟控制台", "1.2.1. 虚拟控制台", True, "a copy"),
        ("看守人每天晚上都爬上楼梯。", "He climbs 用于文件权限的更改", True, "not in the script of English"),
        ("看守人每天晚上都爬上楼梯。", "They say (Лестница) of ls and chmod", True, ""),
        ("1, 2", "3, 4", True, ""),
        ("1, 2", "1, 2", True, "a copy"),
        ("Linux", "Linux", True, "a copy"),
        ("Ein Satz.", "a lamp and a keeper and a lamp and a keeper and a lamp and a keeper", True, "repeats itself"),
        ("Ein Satz über vieles, was es gibt.", LONG, True, ""),
        (LONG, "The tower.", True, "much shorter"),
        ("看守人每天晚上都爬上楼梯。", "The keeper climbs the stairs every evening.", True, ""),
        ("看守人每天晚上都爬上楼梯。", "the " + " ".join(f"word{i}" for i in range(70)), True, "much longer"),
    ],
)
def test_what_speaks_against_a_translation(source: str, target: str, whole: bool, said: str) -> None:
    found = Doubts(ENGLISH).about(source, target, whole)
    assert found == "" if not said else said in found


def test_scripts_of_other_languages() -> None:
    chinese, russian, latin = (
        "看守人每天晚上都爬上楼梯，再次点亮那盏旧灯。",
        "Смотритель поднимается.",
        "ls -l shows it",
    )
    for to, wrong in (("zh", russian), ("ja", russian), ("ru", chinese), ("ar", russian), ("el", chinese)):
        doubts = Doubts(language("to", to))
        for target in (chinese, russian, latin):
            assert ("script" in doubts.about(LONG, target * 2, True)) == (
                target == wrong or (to in ("ar", "el") and target != latin)
            )
    assert not Doubts(Language("xx", "unknown")).about(LONG, chinese, True)
    assert foreign([], ENGLISH) == 0


@pytest.mark.parametrize(
    ("to", "target", "other"),
    [
        ("de", "The keeper climbed the stairs and lit the lamp.", "English"),
        ("de", "Yes, and nobody came to the island that winter.", "English"),
        ("fr", "Der Wärter stieg die Treppe hinauf und zündete die Lampe an.", "German"),
        ("pt-BR", "The lamp was lit each night.", "English"),
        ("ru", "The keeper climbed the stairs and lit the lamp.", "English"),
        ("zh", "The keeper climbed the stairs and lit the lamp.", "English"),
        ("ja", "看守人每天晚上都爬上楼梯，再次点亮那盏旧灯，然后回家。", "Chinese"),
        ("fa", "صعد الحارس الدرج وأشعل المصباح ثم عاد إلى بيته.", "Arabic"),
        ("de", "Der Wärter stieg die Treppe hinauf und zündete die Lampe an.", ""),
        ("de", "London, Paris und New York", ""),
        ("de", "Fitzwilliam Darcy of Pemberley, Derbyshire, England", ""),
        ("de", "Yes, Sir!", ""),
        ("de", "git commit --amend, git push --force", ""),
        ("de", "Er sagte: „The show must go on“, und ging nach Hause.", ""),
        ("nb", "Fyrvokteren gik op ad trappen og tændte lampen.", ""),  # Danish
        ("hr", "Čuvar se popeo uz stepenice i upalio lampu, pa je otišao kući.", ""),  # Serbian as well
        ("uk", "Смотритель поднялся по лестнице и зажёг лампу.", ""),  # Russian
        ("zh-Hant", "看守人每天晚上都爬上樓梯，再次點亮那盞舊燈，然後回家。", ""),
        ("zu", "The keeper climbed the stairs and lit the lamp.", "English"),
        ("tlh", "The keeper climbed the stairs and lit the lamp.", ""),  # nobody would know it
    ],
)
def test_another_language_of_the_right_script(to: str, target: str, other: str) -> None:
    doubt = Doubts(language("to", to)).about("看守人。" if to != "zh" and to != "ja" else "Der Wärter.", target, True)
    assert doubt == "" if not other else doubt.startswith(f"it is in {other}, not in ")


def test_a_number_that_is_counted_up_makes_no_other_translation() -> None:
    doubts = Doubts(ENGLISH)
    doubts.add("Der Wärter steigt.", "The light (1) is on the hill.")
    assert "another paragraph" in doubts.about("Das Schiff kam.", "The light (2) is on the hill.", True)
    doubts.add("Tabelle 1.2: Namen und Orte", "Table 1.2: Names and places")
    assert not doubts.about("Tabelle 1.3: Namen und Orte", "Table 1.3: Names and places", True)


def test_one_translation_of_two_sources() -> None:
    doubts = Doubts(ENGLISH)
    doubts.add("Der Wärter steigt.", "The light is on the hill.")
    doubts.add("Ja.", "Yes.")
    assert not doubts.about("Der Wärter steigt.", "The light is on the hill.", True)  # the same paragraph again
    assert "another paragraph" in doubts.about("Das Schiff kam.", "The light is on the hill!", True)
    assert not doubts.about("Jawohl.", "Yes.", True)  # short ones may be the same
    assert "another paragraph" in doubts.about("Niemand hatte das jemals gesehen.", "Yes.", True)
