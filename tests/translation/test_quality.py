"""Scores of translations: known values, sacreBLEU called directly, and draws made one by one."""

from __future__ import annotations

import math
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF, TER

from templora.errors import ModelError, OptionError
from templora.translation.quality import similarity
from templora.translation.quality.similarity import comet, compare, measure

REFERENCES = [
    "The archive holds all packages of the system.",
    "You should read the manual before you install it.",
    "A kernel is loaded first, and then the rest is started.",
    "The password must not be shown to other users.",
    "Every file belongs to one user and to one group.",
    "The old release is no longer supported by anyone.",
]
GOOD = [
    "The archive holds all the packages of the system.",
    "You should read the manual before installing it.",
    "A kernel is loaded first, then the rest is started.",
    "The password must not be shown to other people.",
    "Every file belongs to one user and one group.",
    "The old release is supported by nobody any more.",
]
POOR = [
    "The store keeps all bundles of the system.",
    "You should read a book before you put it there.",
    "",
    "A password must be hidden from the others.",
    "Every file belongs to one user and to one group.",
    "Nobody takes care of the old version.",
]
CHINESE = ["软件包管理系统很重要", "用户应该阅读文档"]


def test_identical_text_is_perfect() -> None:
    found = measure(REFERENCES, REFERENCES, "en")
    assert found["bleu"]["score"] == pytest.approx(100)
    assert found["chrf"]["score"] == pytest.approx(100)
    assert found["ter"]["score"] == 0


def test_empty_text_is_worth_nothing() -> None:
    found = measure([""] * 6, REFERENCES, "en")
    assert found["bleu"]["score"] == found["chrf"]["score"] == 0
    assert found["ter"]["score"] == 100  # every word is to be inserted


def test_edits_by_hand() -> None:
    assert measure(["a b c x"], ["a b c d"], "en")["ter"]["score"] == pytest.approx(25)
    # Ten characters, one wrong; without characters it would be one word of one.
    assert measure(["软件包管理系统很次要"], CHINESE[:1], "zh")["ter"]["score"] == pytest.approx(10)
    assert measure(["软件包管理系统很次要"], CHINESE[:1], "de")["ter"]["score"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("code", "tokenizer", "characters"),
    [
        ("zh", "zh", True),
        ("zh-Hant", "zh", True),
        ("zh_CN", "zh", True),
        ("yue", "zh", True),
        ("ja", "char", True),
        ("th", "char", False),
        ("en", "13a", False),
        ("pt-BR", "13a", False),
        ("ko", "13a", False),
    ],
)
def test_sacrebleu_says_the_same(code: str, tokenizer: str, characters: bool) -> None:
    systems, references = (
        ["软件包管理系统很次要", "The users read docs, often."],
        [CHINESE[0], "Users read the docs, often."],
    )
    metrics: dict[str, Any] = {
        "bleu": BLEU(tokenize=tokenizer),
        "chrf": CHRF(word_order=2),
        "ter": TER(normalized=characters, asian_support=characters),
    }
    found = measure(systems, references, code)
    for name, metric in metrics.items():
        assert found[name]["score"] == metric.corpus_score(systems, [references]).score
        assert found[name]["signature"] == str(metric.get_signature())
    assert f"tok:{tokenizer}|" in found["bleu"]["signature"]
    assert "|nw:2|" in found["chrf"]["signature"]


def test_both_systems_are_compared_by_the_scores_they_have() -> None:
    found = compare(POOR, GOOD, REFERENCES, "en")
    poor, good = measure(POOR, REFERENCES, "en"), measure(GOOD, REFERENCES, "en")
    for name in ("bleu", "chrf", "ter"):
        figures = found[name]
        before, after = poor[name]["score"], good[name]["score"]
        assert figures["baseline"] == pytest.approx(before, rel=1e-12)
        assert figures["system"] == pytest.approx(after, rel=1e-12)
        assert figures["difference"] == pytest.approx(after - before)
        assert figures["change_percent"] == pytest.approx(100 * (after - before) / before)
        assert figures["signature"] == poor[name]["signature"]
        low, high = figures["interval"]
        assert low < figures["difference"] < high
    assert found["ter"]["difference"] < 0 < found["bleu"]["difference"]


def test_the_interval_is_that_of_texts_put_together_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each draw written out as a text and scored from the beginning, both systems on the same draw."""
    monkeypatch.setattr(similarity, "SAMPLES", 40)
    monkeypatch.setattr(similarity, "SEED", 7)
    found = compare(POOR, GOOD, REFERENCES, "en")
    draws = np.random.default_rng(7).choice(6, size=(40, 6), replace=True)
    for name, metric in {"bleu": BLEU(), "chrf": CHRF(word_order=2), "ter": TER()}.items():
        scores = [
            [metric.corpus_score([texts[i] for i in draw], [[REFERENCES[i] for i in draw]]).score for draw in draws]
            for texts in (POOR, GOOD)
        ]
        differences = sorted(b - a for a, b in zip(*scores, strict=True))
        # The 40 values lie at 0 to 39; 2.5 % of 39 is 0.975, 97.5 % is 38.025: rounded outwards, the ends.
        assert found[name]["interval"] == pytest.approx([differences[0], differences[39]])
        changes = sorted(100 * (b - a) / a for a, b in zip(*scores, strict=True))
        assert found[name]["change_interval"] == pytest.approx([changes[0], changes[39]])


def test_the_middle_95_percent() -> None:
    """With 1,000 draws 24 or 25 lie outside on each side."""
    found = compare(POOR, GOOD, REFERENCES, "en")
    draws = np.random.default_rng(12345).choice(6, size=(1000, 6), replace=True)
    edits = {"poor": [], "good": []}
    for texts, key in ((POOR, "poor"), (GOOD, "good")):
        for text, reference in zip(texts, REFERENCES, strict=True):
            edits[key].append(TER().corpus_score([text], [[reference]]).num_edits)
    words = np.array([len(reference.split()) for reference in REFERENCES])
    more = np.array(edits["good"]) - np.array(edits["poor"])
    differences = np.sort(100 * more[draws].sum(1) / words[draws].sum(1))
    assert found["ter"]["interval"] == pytest.approx([differences[24], differences[975]])


def test_a_system_does_not_differ_from_itself() -> None:
    for figures in (compare(GOOD, GOOD, REFERENCES, "en")[name] for name in ("bleu", "chrf", "ter")):
        assert figures["difference"] == figures["change_percent"] == 0
        assert figures["interval"] == figures["change_interval"] == [0, 0]


def test_the_seed_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    first = compare(POOR, GOOD, REFERENCES, "en")
    assert first == compare(POOR, GOOD, REFERENCES, "en")
    monkeypatch.setattr(similarity, "SEED", 2)
    assert first["bleu"]["interval"] != compare(POOR, GOOD, REFERENCES, "en")["bleu"]["interval"]


def test_nothing_is_a_share_of_zero() -> None:
    found = compare([""] * 6, GOOD, REFERENCES, "en")
    assert found["bleu"]["baseline"] == 0
    assert found["bleu"]["difference"] > 50
    assert found["bleu"]["change_percent"] is found["bleu"]["change_interval"] is None
    assert found["ter"]["change_percent"] < -50
    # The whole has edits to make, but a draw of its perfect segments only has none.
    found = compare([*REFERENCES[:5], ""], GOOD, REFERENCES, "en")
    assert math.isfinite(found["ter"]["change_percent"])
    assert found["ter"]["change_interval"] is None


def test_what_cannot_be_measured_is_said() -> None:
    with pytest.raises(OptionError, match="references: there are none"):
        measure([], [], "en")
    with pytest.raises(OptionError, match="hypotheses: 2 translations for 6 references"):
        measure(GOOD[:2], REFERENCES, "en")
    with pytest.raises(OptionError, match="system: 5 translations for 6 references"):
        compare(GOOD, GOOD[:5], REFERENCES, "en")


def test_without_sacrebleu_the_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(ModelError, match=r"sacrebleu, which cannot be imported here .*; pip install sacrebleu"):
        measure(GOOD, REFERENCES, "en")


class FakeComet(types.ModuleType):
    """Scores by the share of words that stand in the reference too."""

    def __init__(self) -> None:
        super().__init__("comet")
        self.loaded: list[str] = []

    def download_model(self, name: str) -> str:
        if name != "Some/model":
            raise KeyError(f"Model '{name}' not supported by COMET.")
        return "downloaded/model.ckpt"

    def load_from_checkpoint(self, path: str) -> FakeComet:
        self.loaded.append(path)
        return self

    def predict(self, rows: list[dict[str, str]], batch_size: int, gpus: int, progress_bar: bool) -> Any:
        assert (gpus, progress_bar) == (0, False)
        assert rows[0]["src"] == CHINESE[0]
        scores = [len({*row["mt"].split()} & {*row["ref"].split()}) / len(row["ref"].split()) for row in rows]
        return types.SimpleNamespace(scores=scores, system_score=sum(scores) / len(scores))


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeComet:
    fake = FakeComet()
    monkeypatch.setitem(sys.modules, "comet", fake)
    return fake


def test_comet_is_asked(library: FakeComet) -> None:
    found = comet(CHINESE, ["a b c d", "x"], ["a b c e", "y"], "Some/model")
    assert (found.score, found.segments, found.reason) == (0.375, (0.75, 0.0), "")
    assert library.loaded == ["downloaded/model.ckpt"]


def test_a_comet_model_on_disk_is_not_downloaded(library: FakeComet, tmp_path: Path) -> None:
    file = tmp_path / "checkpoints" / "model.ckpt"
    file.parent.mkdir()
    file.touch()
    assert comet(CHINESE, ["a", "b"], ["a", "b"], str(tmp_path)).score == 1
    assert comet(CHINESE, ["a", "b"], ["a", "b"], str(file)).score == 1
    assert library.loaded == [str(file), str(file)]


def test_why_comet_says_nothing(library: FakeComet, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = (CHINESE, ["a", "b"], ["a", "b"])
    assert comet(*texts, None).reason == "no COMET model was given"
    found = comet(*texts, "No/such")
    assert (found.score, found.segments) == (None, ())
    assert found.reason == "COMET with the model No/such failed: \"Model 'No/such' not supported by COMET.\""
    monkeypatch.setitem(sys.modules, "comet", None)
    assert comet(*texts, "Some/model").reason.endswith("; pip install unbabel-comet")
    with pytest.raises(OptionError, match="sources: 2 translations for 1 references"):
        comet(CHINESE, ["a"], ["a"], None)
