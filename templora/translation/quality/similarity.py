"""How good a translation is against a reference: BLEU, chrF++ and TER as sacreBLEU defines them; COMET, if installed.

sacreBLEU is what published scores are computed with (Post 2018, "A call for clarity in reporting BLEU scores"); its
signature beside each score says how, so that others can compute the same.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from templora.errors import ModelError, OptionError
from templora.metrics import middle

# The scores, on a scale of 100, and what papers call them:
#     bleu: n-grams of words shared (Papineni et al. 2002); higher is better.
#     chrf: n-grams of characters and words shared (Popović 2017); higher is better.
#     ter: edits needed per word of the reference (Snover et al. 2006); LOWER is better, and it can exceed 100.
NAMES = {"bleu": "BLEU", "chrf": "chrF++", "ter": "TER"}
# Draws of a bootstrap; the same seed, the same figures.
SAMPLES, SEED = 1000, 12345
_CHINESE = frozenset({"zh", "yue", "cmn", "zho", "lzh"})
_JAPANESE = frozenset({"ja", "jpn"})
# Thai, Lao, Khmer, Burmese, Tibetan: no spaces between words, and no tokenizer of sacreBLEU's own.
_OTHER_UNSPACED = frozenset({"th", "lo", "km", "my", "bo"})


def measure(hypotheses: Sequence[str], references: Sequence[str], target_code: str) -> dict[str, dict[str, Any]]:
    """Scores of one system over the whole text.

    BLEU's tokenizer is "zh" for Chinese, "char" for other languages written without spaces, "13a" for all else. TER
    takes Chinese and Japanese by characters; but runs of kana are one token to sacreBLEU, and so is a Thai clause. It
    takes longest: half a minute for 1,700 paragraphs of Chinese that resemble their references little.

    Args:
        hypotheses: the translations, segment by segment. Empty ones are allowed and count as empty.
        references: as many.
        target_code: of the language translated into, as zh or pt-BR.

    Returns:
        For JSON, under `bleu`, `chrf` and `ter`: `score`, and `signature`, which says how it was computed.

    Raises:
        OptionError: nothing to measure, not as many references.
        ModelError: sacrebleu is not installed.
    """
    _check(references, hypotheses=hypotheses)
    found = {}
    for name, metric in _metrics(target_code).items():
        score = metric.corpus_score(list(hypotheses), [list(references)]).score
        found[name] = {"score": float(score), "signature": str(metric.get_signature())}
    return found


def compare(
    baseline: Sequence[str], system: Sequence[str], references: Sequence[str], target_code: str
) -> dict[str, dict[str, Any]]:
    """Two systems on the same segments, and how sure one can be of their difference.

    Paired bootstrap resampling (Koehn 2004, "Statistical significance tests for machine translation evaluation"):
    segments are drawn with replacement, each with both of its translations, and the scores of each draw are those of
    the whole of it. Draws are those of `sacrebleu.significance.PairedTest`, which does not tell the
    differences. Segments count as independent: of one text they are not quite, and what is said of it is of this text.

    Args:
        baseline: translations of the one system, segment by segment.
        system: those of the other.
        references: as many.
        target_code: see `measure`.

    Returns:
        For JSON, under `bleu`, `chrf` and `ter`:

        - `baseline`, `system`: the scores; `signature`.
        - `difference`: system − baseline, and its 95 % `interval` (percentiles).
        - `change_percent`: the same as a share of the baseline, and its `change_interval`; None where a baseline is 0.

    Raises:
        OptionError: nothing to measure, not as many translations as references.
        ModelError: sacrebleu is not installed.
    """
    _check(references, baseline=baseline, system=system)
    metrics = _metrics(target_code)
    numpy = importlib.import_module("numpy")
    drawn = numpy.random.default_rng(SEED).choice(len(references), size=(SAMPLES, len(references)), replace=True)
    # A row for each draw: how often each segment is in it.
    times = numpy.stack([numpy.bincount(draw, minlength=len(references)) for draw in drawn]).astype(float)
    found = {}
    for name, metric in metrics.items():
        one, other = (_scores(metric, texts, references, times) for texts in (baseline, system))
        found[name] = _figures(one, other) | {"signature": str(metric.get_signature())}
    return found


def _scores(metric: Any, hypotheses: Sequence[str], references: Sequence[str], times: Any) -> list[float]:
    """Scores of the text, and then of each draw. All three metrics are functions of sums over segments."""
    statistics = metric._extract_corpus_statistics(list(hypotheses), [list(references)])
    numpy = importlib.import_module("numpy")
    # Whole numbers, far below 2^53: sums in any order are exact.
    rows = numpy.array(statistics, dtype=float)
    sums = [rows.sum(0).tolist(), *(times @ rows).tolist()]
    return [float(metric._compute_score_from_stats(row).score) for row in sums]


def _figures(baseline: Sequence[float], system: Sequence[float]) -> dict[str, Any]:
    """The score and its interval, of scores of the text, which come first, and of its draws."""
    difference, *differences = (b - a for a, b in zip(baseline, system, strict=True))
    changes = [100 * (b / a - 1) for a, b in zip(baseline, system, strict=True) if a]
    whole = len(changes) == len(baseline)
    return {
        "baseline": baseline[0],
        "system": system[0],
        "difference": difference,
        "interval": list(middle(differences)),
        "change_percent": changes[0] if baseline[0] else None,
        "change_interval": list(middle(changes[1:])) if whole else None,
    }


def _metrics(target_code: str) -> dict[str, Any]:
    """sacreBLEU's metrics for a language, by our names."""
    try:
        sacrebleu = importlib.import_module("sacrebleu.metrics")
    except ImportError as error:
        raise ModelError(
            f"scores of translations need sacrebleu, which cannot be imported here ({error}); pip install sacrebleu"
        ) from error
    language = target_code.replace("_", "-").split("-")[0].lower()
    by_characters = language in _CHINESE | _JAPANESE
    tokenizer = "zh" if language in _CHINESE else "char" if language in _JAPANESE | _OTHER_UNSPACED else "13a"
    return {
        "bleu": sacrebleu.BLEU(tokenize=tokenizer),
        "chrf": sacrebleu.CHRF(word_order=2),
        # Without `normalized`, `asian_support` does nothing.
        "ter": sacrebleu.TER(normalized=by_characters, asian_support=by_characters),
    }


def _check(references: Sequence[str], **systems: Sequence[str]) -> None:
    if not references:
        raise OptionError("references", "there are none, so there is nothing to measure")
    for name, texts in systems.items():
        if len(texts) != len(references):
            raise OptionError(name, f"{len(texts):,} translations for {len(references):,} references")


@dataclass(frozen=True)
class Comet:
    """What COMET says, or why it says nothing.

    Attributes:
        score: of the whole text; None if it could not be computed.
        segments: of each segment.
        reason: why there is no score; empty if there is.
    """

    score: float | None
    segments: tuple[float, ...]
    reason: str


def comet(sources: Sequence[str], hypotheses: Sequence[str], references: Sequence[str], model: str | None) -> Comet:
    """A trained metric's opinion (Rei et al. 2020, "COMET: a neural framework for MT evaluation").

    Optional in every respect: what is missing is a reason, not an error, so that other measures are not lost with it.

    Args:
        sources: the segments.
        hypotheses: their translations.
        references: as many; models without references do not look at them.
        model: a checkpoint file, a folder with `checkpoints/model.ckpt`, or a name such as Unbabel/wmt22-comet-da,
            which is downloaded; None for no COMET.

    Raises:
        OptionError: nothing to measure, not as many sources or translations as references.
    """
    _check(references, sources=sources, hypotheses=hypotheses)
    if model is None:
        return Comet(None, (), "no COMET model was given")
    rows = [
        {"src": source, "mt": hypothesis, "ref": reference}
        for source, hypothesis, reference in zip(sources, hypotheses, references, strict=True)
    ]
    try:
        library = importlib.import_module("comet")
        path = Path(model)
        if path.is_dir():
            path = path / "checkpoints" / "model.ckpt"
        scorer = library.load_from_checkpoint(str(path) if path.exists() else library.download_model(model))
        said = scorer.predict(rows, batch_size=8, gpus=0, progress_bar=False)
    except ImportError as error:
        return Comet(None, (), f"COMET cannot be imported here ({error}); pip install unbabel-comet")
    except Exception as error:  # it raises bare ones, of itself and of many libraries
        return Comet(None, (), f"COMET with the model {model} failed: {error}")
    return Comet(float(said.system_score), tuple(float(score) for score in said.scores), "")
