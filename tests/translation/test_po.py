"""gettext: what has no translation gets one that gettext accepts; all else stays to the byte."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import polib
import pytest
from growth import assert_linear
from hypothesis import given, settings, strategies as st

from templora.errors import TextError
from templora.translation.documents import open_document
from templora.translation.documents.catalogue import messages
from templora.translation.documents.po import Po
from templora.translation.languages import language

EXAMPLES = sorted((Path(__file__).parents[2] / "experiments/documents/po").iterdir())
HEADER = """msgid ""
msgstr ""
"Project-Id-Version: p\\n"
"Language: \\n"
"MIME-Version: 1.0\\n"
"Content-Type: text/plain; charset=UTF-8\\n"
"Content-Transfer-Encoding: 8bit\\n"
"Plural-Forms: nplurals=2; plural=(n != 1);\\n"
"""
CATALOGUE = (
    "\ufeff# Ours\n"
    + HEADER
    + """
#. for the menu
#: a.c:1
msgctxt "m"
msgid "One"
msgstr ""

#, fuzzy, c-format
#| msgid "Tw"
msgid "Two %d"
msgstr "Zwei"
#, fuzzy
msgid   ""
"Three\\n"
""
msgstr  "Drei\\n"
# done
msgid "Four"
msgstr "Vier"

#, fuzzy
#~ msgid "Gone"
#~ msgstr "Weg"

msgid "%s"
msgstr ""

msgid "One thing"
msgid_plural "%d things"
msgstr[0] ""
msgstr[1] ""
"""
)
SOURCES = ["One", "Two <1>%d</1>", "Three", "One thing", "<1>%d</1> things"]


def texts(raw: str | bytes) -> list[str]:
    return [segment.text for segment in Po("p", raw if isinstance(raw, bytes) else raw.encode()).segments]


def catalogue(text: str, *, plural: str = "", flags: str = "") -> str:
    """A catalogue with one message, without a translation."""
    entry = polib.POEntry(msgid=text, msgid_plural=plural, msgstr_plural={0: "", 1: ""} if plural else {})
    return f"{HEADER}\n" + (f"#, {flags}\n" if flags else "") + str(entry)


def translated(raw: str, *targets: str, code: str = "de") -> polib.POEntry:
    """The last message of a catalogue, as polib reads it."""
    done = Po("p", raw.encode()).render(targets, language("to", code)).decode()
    return polib.pofile(done)[-1]


def check(raw: bytes, tmp_path: Path) -> None:
    """That gettext accepts a catalogue, where it is installed."""
    if program := shutil.which("msgfmt"):
        (tmp_path / "x.po").write_bytes(raw)
        command = [program, "--check-format", "--check-domain", "-o", str(tmp_path / "x.mo"), str(tmp_path / "x.po")]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr


def test_segments() -> None:
    assert texts(CATALOGUE) == SOURCES


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_what_is_not_translated_stays_to_the_byte(newline: str) -> None:
    raw = CATALOGUE.replace("\n", newline).encode()
    document = Po("p", raw)
    assert document.render(SOURCES, language("to", "de")) == document.render([], language("to", "de")) == raw
    done = document.render(["Eins", *SOURCES[1:]], language("to", "pt-BR")).decode()
    wanted = CATALOGUE.replace('"One"\nmsgstr ""', '"One"\nmsgstr "Eins"').replace("Language: ", "Language: pt_BR")
    assert done == wanted.replace("\n", newline)


def test_a_translation() -> None:
    targets = ['"1"', "<1>%d</1> Stück", "Drei", "Ein\u00a0Ding", "<1>%d</1> Dinge"]
    done = Po("p", CATALOGUE.encode()).render(targets, language("to", "de")).decode()
    wanted = CATALOGUE.replace("Language: ", "Language: de").replace('"One"\nmsgstr ""', '"One"\nmsgstr "\\"1\\""')
    wanted = wanted.replace("#, fuzzy, c-format", "#, c-format").replace('"Zwei"', '"%d Stück"')
    wanted = wanted.replace('#, fuzzy\nmsgid   ""', 'msgid   ""').replace('msgstr  "Drei', 'msgstr "Drei')
    assert done == wanted.replace('[0] ""', '[0] "Ein\u00a0Ding"').replace('[1] ""', '[1] "%d Dinge"')


def test_half_a_translation() -> None:
    """A message is written when all of it is translated."""
    document = Po("p", (CATALOGUE + catalogue("a\nb").removeprefix(HEADER)).encode())
    done = polib.pofile(document.render(["x"] * 4, language("to", "de")).decode())
    assert [entry.msgstr for entry in done[:3]] == ["x", "x %d", "x\n"]
    assert done[-2].msgstr_plural == {0: "", 1: ""}
    done = polib.pofile(document.render(["x"] * 6, language("to", "de")).decode())
    assert (done[-2].msgstr_plural[0], done[-1].msgstr) == ("x", "")
    assert Po("p", catalogue("a\n").encode()).render([" "], language("to", "de")).decode() == catalogue("a\n")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples(path: Path, tmp_path: Path) -> None:
    raw = path.read_bytes()
    document = open_document(path.name, raw)
    sources = [segment.text for segment in document.segments]
    assert document.render(sources, language("to", "de")) == raw
    code = {"shop.po": "fr", "viewer.po": "ja", "site.po": "de"}.get(path.name, "ru")
    done = document.render([f"ж {text} % {{" for text in sources], language("to", code))
    check(done, tmp_path)
    before, after = (polib.pofile(held.decode()) for held in (raw, done))
    assert [(e.msgid, e.msgctxt, e.occurrences, e.comment) for e in before] == [
        (e.msgid, e.msgctxt, e.occurrences, e.comment) for e in after
    ]
    assert len(after.translated_entries()) > len(before.translated_entries())
    assert not after.fuzzy_entries()


# Texts ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "segments", "written"),
    [
        ("\nA\tb\\ \"c\"\n", ["A", 'b\\ "c"'], "\nx\tx\n"),
        (" a: ", ["a:"], " x "),
        ("a\n\n  b\n", ["a", "b"], "x\n\n  x\n"),
        ("%s: %d", [], None),
        ("a %s, b", ["a <1>%s</1>, b"], "x %s"),
        ("%(a)s b %1$s {c} ${d} $e %1 %L2 %user% %{f}", None, None),
        ("a <b>c</b> <i>%s</i> d", ["a <1>c</1> <2>%s</2> d"], None),
        ('a <a href="%s">c</a><br/>d', ["a <1>c</1><2/>d"], None),
        ("a <file> &amp; -x --long=Y b", ["a <1><file></1> <2>&amp;</2> <3>-x</3> <4>--long=Y</4> b"], None),
        ("a </b> <i>c <b>d</i>", ["a <1></b></1> <2><i></2>c <3><b></3>d<4></i></4>"], None),
        ("a e-mail 5 < 6", ["a e-mail 5 < 6"], "x"),
        ("100% sure", ["100% sure"], "x"),
    ],
)  # fmt: skip
def test_texts(text: str, segments: list[str] | None, written: str | None) -> None:
    raw = catalogue(text)
    found = texts(raw)
    if segments is not None:
        assert found == segments
    if written is not None:
        assert translated(raw, *["x"] * len(found)).msgstr == written
    more = translated(raw, *(f"{segment} ж" for segment in found))
    assert (more.msgid, more.flags) == (text, [])
    assert more.msgstr.replace(" ж", "") == (text if found else "")


@pytest.mark.parametrize(
    ("flags", "text", "target", "written", "fuzzy"),
    [
        ("c-format", "%d%% of %s", "<1>%d</1>% x 5% <2>%s</2>", "%d%% x 5%% %s", False),
        ("c-format", "a %s b %s", "<2>%s</2> x <1>%s</1>", "%2$s x %1$s", False),
        ("c-format", "a %5.2f b %<PRIu64> %m", "<3>%m</3> <2>y</2> x <1>z</1>", "%m %2$<PRIu64> x %1$5.2f", False),
        ("c-format", "a %*d b %s", "<2>%s</2> x <1>%*d</1>", "%*d x %s", True),
        ("c-format", "a %2$s b %1$s", "<2>%1$s</2> x <1>%2$s</1>", "%1$s x %2$s", False),
        ("c-format", "a %s", "x <1>%s</1> %s", "x %s %%s", False),
        ("c-format", "a %s b", "x", "x %s", True),
        ("c-format", "%s %s\na %d b %d", "<2>%d</2> x <1>%d</1>", "%s %s\n%d x %d", True),
        ("python-format", "a %s b %d", "<2>%d</2> x <1>%s</1>", "%s x %d", True),
        ("python-format", "a %(b)s c %(d)s", "<2>%(d)s</2> x <1>%(b)s</1> 5%", "%(d)s x %(b)s 5%%", False),
        ("", "a %s b %d", "<2>%d</2> x <1>%s</1>", "%s x %d", True),
        ("", "a %s", "x <1>%s</1> %s 5%", "x %s %s 5%", True),
        ("", "a <b>c</b>", "<b>x</b>", "<b><b>x</b></b>", True),
        ("python-brace-format", "a {} b {!r} {{c}}", "<2>y</2> x <1>z</1> {k}", "{1!r} x {0} {{k}}", False),
        ("python-brace-format", "a {0:{1}}", "{ <1>y</1> }", "{{ {0:{1}} }}", False),
        ("java-format", "it''s {0}", "l'x <1>{0}</1> {", "l''x {0} '{'", False),
        ("qt-format", "a %1 b %2", "<2>%2</2> x <1>%1</1>", "%2 x %1", False),
        ("no-c-format", "5% a", "5% x", "5% x", False),
    ],
)  # fmt: skip
def test_placeholders_survive(flags: str, text: str, target: str, written: str, fuzzy: bool, tmp_path: Path) -> None:
    raw = catalogue(text, flags=flags)
    entry = translated(raw, target)
    assert entry.msgstr == written
    assert ("fuzzy" in entry.flags) == fuzzy
    assert {*flags.split(", ")} - {""} <= {*entry.flags}
    check(Po("p", raw.encode()).render([target], language("to", "de")), tmp_path)


@pytest.mark.parametrize(
    ("first", "text", "shown", "target", "written"),
    [
        ("_File", "Save _As…", "Save As…", "Sichern", "_Sichern"),
        ("_File", "Pre_ferences", "Preferences", "1 Einstellung", "1 _Einstellung"),
        ("_File", "_Next...", "Next...", "次へ...", "次へ(_N)..."),
        ("_File", "_Next", "Next", "다음", "다음(_N)"),
        ("_File", "_Open %s", "Open <1>%s</1>", "打开<1>%s</1>", "打开%s(_O)"),
        ("_File", "a_b _c", "a_b _c", "x", "x"),
        ("_File", "the file_name", "the file_name", "x", "x"),
        ("File", "_Next", "Next", "x", "_x"),
        ("File", "E_xit", "E_xit", "x", "x"),
        ("&File", "E&xit", "Exit", "Ende", "&Ende"),
        ("&File", "AT&T", "AT&T", "x", "x"),
        ("&File", "R&D", "R&D", "x", "x"),
        ("&File", "&amp; so", "<1>&amp;</1> so", "<1>&amp;</1> x", "&amp; x"),
        ("&amp; a", "E&xit", "E&xit", "x", "x"),
    ],
)  # fmt: skip
def test_keys(first: str, text: str, shown: str, target: str, written: str) -> None:
    raw = catalogue(first) + catalogue(text).removeprefix(HEADER)
    found = texts(raw)
    assert found[1] == shown
    entry = translated(raw, found[0], target)
    assert (entry.msgstr, entry.flags) == (written, [])


def test_a_choice_between_texts_is_left() -> None:
    document = Po("p", catalogue("{n, plural, one {# file} other {# files}}").encode())
    assert not document.segments
    assert document.problems == ["'{n, plural, one {# file} other {# files}': a choice between texts; left as it is"]


# Plurals and the header ----------------------------------------------------------------------------------------------

TEMPLATE = HEADER.replace("nplurals=2; plural=(n != 1);", "nplurals=INTEGER; plural=EXPRESSION;")
TEMPLATE = TEMPLATE.replace("UTF-8", "CHARSET")


@pytest.mark.parametrize(
    ("code", "singular", "forms"),
    [
        ("de", "One file", ["1", "2 %d"]),
        ("ja", "One file", ["2 %d"]),
        ("zh-Hant", "One file", ["2 %d"]),
        ("ru", "One file", ["2 %d", "2 %d", "2 %d"]),  # the first is for 21, too
        ("ru", "%d file", ["1 %d", "2 %d", "2 %d"]),
        ("pl", "One file", ["1", "2 %d", "2 %d"]),
        ("ar", "One file", ["2 %d", "1", "2 %d", "2 %d", "2 %d", "2 %d"]),
        ("fr", "One file", ["1", "2 %d"]),
        ("pt-PT", "One file", ["1", "2 %d"]),
    ],
)
def test_plurals(code: str, singular: str, forms: list[str], tmp_path: Path) -> None:
    raw = TEMPLATE + catalogue(singular, plural="%d files", flags="c-format").removeprefix(HEADER)
    done = Po("p", raw.encode()).render(
        [singular.replace("%d", "1 <1>%d</1>").replace("One", "1").replace(" file", ""), "2 <1>%d</1>"],
        language("to", code),
    )
    check(done, tmp_path)
    catalogue_ = polib.pofile(done.decode())
    assert [*catalogue_[-1].msgstr_plural.values()] == forms
    assert catalogue_.metadata["Plural-Forms"].startswith(f"nplurals={len(forms)};")
    assert catalogue_.metadata["Content-Type"] == "text/plain; charset=UTF-8"
    assert catalogue_.metadata["Language"] == code.replace("-", "_")


def test_what_the_header_says_of_plurals_holds() -> None:
    said = "nplurals=3; plural=(n==1 ? 2 : n==0 ? 1 : 0);"
    raw = catalogue("a", plural="b %d").replace("nplurals=2; plural=(n != 1);", said)
    assert translated(raw, "x", "y <1>%d</1>").msgstr_plural == {0: "y %d", 1: "y %d", 2: "x"}
    for wrong in ("nplurals=2; plural=n/0;", "nplurals=2; plural=(n;"):
        raw = catalogue("a", plural="b").replace("nplurals=2; plural=(n != 1);", wrong)
        assert translated(raw, "x", "y").msgstr_plural == {0: "y", 1: "y"}


def test_a_language_whose_plurals_are_not_known() -> None:
    raw = TEMPLATE + catalogue("a", plural="b").removeprefix(HEADER)
    document = Po("p", raw.encode())
    done = polib.pofile(document.render(["x", "y"], language("to", "cy")).decode())
    assert done[-1].msgstr_plural == {0: "x", 1: "y"}
    assert done.metadata["Plural-Forms"] == "nplurals=INTEGER; plural=EXPRESSION;"
    assert document.problems == [
        "how Welsh forms plurals is not known here: complete Plural-Forms, and check the plurals"
    ]


def test_a_header_without_plural_forms() -> None:
    raw = re.sub('"Plural.*\n', "", catalogue("a", plural="b"))
    done = Po("p", raw.encode()).render(["x", "y"], language("to", "cs")).decode()
    assert polib.pofile(done).metadata["Plural-Forms"] == "nplurals=3; plural=(n==1) ? 0 : (n>=2 && n<=4) ? 1 : 2;"


def test_a_form_that_is_there_stays() -> None:
    raw = catalogue("a", plural="b").replace('msgstr[1] ""', 'msgstr[1]  "there"')
    done = Po("p", raw.encode()).render(["x", "y"], language("to", "de")).decode()
    assert done.endswith('msgstr[0] "x"\nmsgstr[1]  "there"\n')


def test_a_catalogue_without_a_header() -> None:
    document = Po("p", b'msgid "a"\nmsgstr ""')
    assert document.render(["\u00e4"], language("to", "de")).decode() == 'msgid "a"\nmsgstr "\u00e4"'
    assert document.problems == ["there is no header, which would say the language and the encoding"]


def test_encodings() -> None:
    raw = catalogue("caf\u00e9").replace("UTF-8", "ISO-8859-1").encode("latin-1")
    document = Po("p", raw)
    assert texts(raw) == ["caf\u00e9"]
    assert document.render(["caf\u00e9"], language("to", "de")) == raw
    done = document.render(["\u00fc"], language("to", "de"))
    assert b"charset=ISO-8859-1" in done
    assert polib.pofile(done.decode("latin-1"))[-1].msgstr == "\u00fc"
    done = document.render(["\u0436"], language("to", "ru"))  # which that has not
    assert b"charset=UTF-8" in done
    assert polib.pofile(done.decode())[-1].msgstr == "\u0436"


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "p: empty"),
        (b"\xff\xff", r"p: not UTF-8 text \(byte 0\)"),
        (b"a\0", "p: a binary file"),
        (HEADER.replace("UTF-8", "utf-9").encode(), "p: no text in utf-9, as its header says; convert it to UTF-8"),
        (HEADER.replace("UTF-8", "punycode").encode(), "p: no text in punycode"),
        (catalogue("\u00e9").replace("UTF-8", "ascii").encode(), "p: no text in ascii"),
        (b"# x\nhello\n", "p: line 2: no line of a gettext catalogue: 'hello'"),
        (b'"a"\n', "p: line 1: no line of a gettext catalogue"),
        (b'msgid "a"\nmsgid "b"\n', "p: line 2: no line"),
        (b'msgid "a\n', "p: line 1: no line"),
        (b'msgid "a"b"\nmsgstr ""', "p: line 1: a quote or a backslash in a string"),
        (b'msgid "a\\"\nmsgstr ""', "p: line 1: a quote or a backslash in a string"),
        (b'msgid "a"\n', "p: the message before line 2 lacks its msgid or its msgstr"),
        (b'msgstr "a"\n', "p: the message before line 2 lacks its msgid"),
        (b'msgid "a"\nmsgid_plural "b"\nmsgstr ""', r"p: the message before line 4 lacks its msgid or its msgstr\[0\]"),
        (b'msgid "a"\nmsgstr ""\nmsgstr[0] ""', "p: the message before line 4 lacks"),
    ],
)
def test_what_is_no_catalogue(raw: bytes, said: str) -> None:
    with pytest.raises(TextError, match=said):
        Po("p", raw)


# Whatever comes ------------------------------------------------------------------------------------------------------

TEXTS = st.text(st.sampled_from('ab _&%sd{}$<>/"\\\n\t\u00e9\u4e2d-x1'), max_size=30) | st.sampled_from(
    ["%s a %d", "{a} b {}", "<b>a</b> %s", "100%% a", "a\n\n  %s b\n"]
)
FLAGS = st.sampled_from(["", "c-format", "python-brace-format", "fuzzy", "java-format"])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS | st.just(""), TEXTS | st.just(""), FLAGS), max_size=4), TEXTS)
def test_what_polib_writes_is_read_and_what_is_written_polib_reads(
    entries: list[tuple[str, str, str, str]], more: str
) -> None:
    held = polib.POFile()
    held.metadata = {"Content-Type": "text/plain; charset=UTF-8", "Language": "en"}
    for msgid, plural, msgstr, flags in entries:
        if msgid:
            entry = polib.POEntry(msgid=msgid, flags=[flags] if flags else [])
            if plural:
                entry.msgid_plural, entry.msgstr_plural = plural, {0: msgstr, 1: ""}
            else:
                entry.msgstr = msgstr
            held.append(entry)
    raw = str(held)
    found = [*messages("p", raw)]
    assert [m.texts["msgid"] for m in found[1:]] == [entry.msgid for entry in held]
    document = Po("p", raw.encode())
    sources = [segment.text for segment in document.segments]
    assert document.render(sources, language("to", "de")).decode() == raw
    done = polib.pofile(document.render([f"{text} x{more}" for text in sources], language("to", "de")).decode() + "\n")
    assert [(e.msgid, e.msgid_plural) for e in done] == [(e.msgid, e.msgid_plural) for e in held]
    for entry, before in zip(done, held, strict=True):
        for end in (str.startswith, str.endswith):
            assert end(entry.msgid, "\n") == end(entry.msgstr, "\n") or entry.msgstr in ("", before.msgstr)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(re.findall(r'"|msg\w+|\[\d\]|\\.|\w+|\s|.', CATALOGUE)), max_size=40))
def test_whatever_comes_is_a_catalogue_or_a_text_error(pieces: list[str]) -> None:
    raw = "".join(pieces).encode()
    try:
        document = Po("p", raw)
    except TextError:
        return
    assert document.render([segment.text for segment in document.segments], language("to", "de")) == raw


@pytest.mark.parametrize(
    ("before", "repeated", "behind"),
    [
        ("", '\nmsgid "a %s"\nmsgstr ""\n', ""),
        ('msgid ""\n', '"a\\n"\n', 'msgstr ""'),
        ('msgid "a', "\\n", '"\nmsgstr ""'),
        ('msgid "a', "<b>", '"\nmsgstr ""'),
        ('#, c-format\nmsgid "a', "%", '"\nmsgstr ""'),
        ('#, python-brace-format\nmsgid "a', "{x", '"\nmsgstr ""'),
        ('msgid "a', "$&{<", '"\nmsgstr ""'),
        ('msgid "a', ' \\"', '\nmsgstr ""'),
        ("# ", "#, fuzzy\n", 'msgid "a"\nmsgstr ""'),
    ],
)
def test_time_grows_with_the_catalogue(before: str, repeated: str, behind: str) -> None:
    def read(raw: bytes) -> None:
        try:
            document = Po("p", raw)
        except TextError:
            return
        document.render(["x"] * len(document.segments), language("to", "de"))

    assert_linear(lambda many: f"{before}{repeated * many}{behind}".encode(), read, 300)
