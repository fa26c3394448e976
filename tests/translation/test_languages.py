"""Languages by code and by name, and told from a text."""

from __future__ import annotations

import pytest

from templora.errors import OptionError
from templora.translation.languages import detect, language


@pytest.mark.parametrize(
    ("value", "code", "name"),
    [
        ("de", "de", "German"),
        ("German", "de", "German"),
        (" german ", "de", "German"),
        ("Deutsch", "de", "German"),
        ("deu", "de", "German"),
        ("pt-br", "pt-BR", "Portuguese (Brazil)"),
        ("PT_BR", "pt-BR", "Portuguese (Brazil)"),
        ("Brazilian Portuguese", "pt-BR", "Portuguese (Brazil)"),
        ("chinese", "zh", "Chinese"),
        ("zh-hant", "zh-Hant", "Chinese (Traditional)"),
        ("iw", "he", "Hebrew"),
        ("Klingon", "tlh", "Klingon"),
    ],
)
def test_codes_and_names(value: str, code: str, name: str) -> None:
    found = language("to", value)
    assert (found.code, found.name) == (code, name)


@pytest.mark.parametrize("value", ["zh", "zh-TW", "Japanese", "th", "lo", "km", "my", "Burmese", "yue", "bo"])
def test_languages_without_spaces(value: str) -> None:
    assert not language("to", value).spaces


@pytest.mark.parametrize("value", ["ar", "he", "fa", "ur", "yi", "ckb", "ps", "dv", "pa-PK"])
def test_languages_from_right_to_left(value: str) -> None:
    found = language("to", value)
    assert found.right_to_left
    assert found.spaces


@pytest.mark.parametrize("value", ["en", "ko", "vi", "hi", "zh-Latn", "ja-Latn", "sr", "ku"])
def test_other_languages(value: str) -> None:
    found = language("to", value)
    assert found.spaces
    assert not found.right_to_left


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("gremlin", "did you mean 'German'?"),
        ("Spanich", "did you mean 'Spanish'?"),
        ("de-XY", "did you mean 'de', German?"),
        ("en_US.UTF-8", "did you mean 'en', English?"),
        ("xx", "give a code such as 'de'"),
        ("qq", "give a code such as 'de'"),
        ("qaa", "give a code such as 'de'"),
        ("und", "give a code such as 'de'"),
        ("mul", "give a code such as 'de'"),
        ("a", "give a code such as 'de'"),
        ("", "give a code such as 'de'"),
        ("x-mine", "give a code such as 'de'"),
        ("\0", "give a code such as 'de'"),
        ("'", "give a code such as 'de'"),
    ],
)
def test_no_language(value: str, hint: str) -> None:
    with pytest.raises(OptionError) as caught:
        language("from", value)
    assert str(caught.value).startswith(f"from: unknown language {value!r}; {hint}")
    assert caught.value.option == "from"


def test_a_whole_text_given_by_mistake_is_not_repeated() -> None:
    with pytest.raises(OptionError) as caught:
        language("to", "Once upon a time " * 1000)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The keeper had not spoken to anyone since the spring.", "en"),
        ("Der Wärter hatte seit dem Frühling mit niemandem gesprochen.", "de"),
        ("守夜人从春天起就没有和任何人说过话。", "zh"),
        ("灯台守は春から誰とも話していなかった。", "ja"),
        ("등대지기는 봄부터 누구와도 말하지 않았다.", "ko"),
        ("לא דיבר שומר המגדלור עם איש מאז האביב.", "he"),
    ],
)
def test_a_language_is_told_from_a_text(text: str, code: str) -> None:
    assert detect(text) == language("from", code)
    assert detect(text * 500) == language("from", code)  # as sure of a long one


def test_the_language_of_most_of_a_text_counts() -> None:
    foreword = "This eBook is for the use of anyone anywhere at no cost and with almost no restrictions. " * 8
    assert detect(foreword + "Er ging nach Hause und dachte an die Frau, die er gesehen hatte. " * 60) == language(
        "to", "de"
    )


@pytest.mark.parametrize("text", ["", "1984", "* * *", "xyzzy qwrt", "OK"])
def test_a_language_that_cannot_be_told(text: str) -> None:
    assert detect(text) is None
