"""A Word document with a little of everything, by hand, and what of it is changed for a test."""

from __future__ import annotations

import io
import zipfile

W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
NAMES = (
    f'xmlns:w="{W}" xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships" '
    'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006" '
    'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math" xmlns:v="urn:schemas-microsoft-com:vml" '
    'xmlns:wps="http://schemas.microsoft.com/office/word/2010/wordprocessingShape" '
    'xmlns:w14="http://schemas.microsoft.com/office/word/2010/wordml" '
    'xmlns:wp="http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing" '
    'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"'
)
XML = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\r\n'
KIND = "application/vnd.openxmlformats-officedocument.wordprocessingml"
RELATED = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PARTS = ("styles", "footnotes", "header1", "comments")
TYPES = (
    f'{XML}<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Default Extension="xml" ContentType="application/xml"/><Default Extension="png" ContentType="image/png"/>'
    f'<Override PartName="/word/document.xml" ContentType="{KIND}.document.main+xml"/>'
    + "".join(f'<Override PartName="/word/{name}.xml" ContentType="{KIND}.{name.rstrip("1")}+xml"/>' for name in PARTS)
    + "</Types>"
)


def relationships(*pairs: tuple[str, str]) -> str:
    """A file of relationships: kinds and targets."""
    found = f'{XML}<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    for at, (kind, target) in enumerate(pairs, 1):
        mode = ' TargetMode="External"' if target.startswith("https:") else ""
        found += f'<Relationship Id="rId{at}" Type="{RELATED}/{kind}" Target="{target}"{mode}/>'
    return f"{found}</Relationships>"


STYLES = (
    f'{XML}<w:styles {NAMES}><w:docDefaults><w:rPrDefault><w:rPr><w:lang w:val="en-GB" w:eastAsia="en-US"/></w:rPr>'
    "</w:rPrDefault></w:docDefaults>"
    '<w:style w:type="paragraph" w:default="1" w:styleId="Normal"><w:name w:val="Normal"/></w:style>'
    '<w:style w:type="paragraph" w:styleId="berschrift1"><w:name w:val="heading 1"/></w:style>'
    '<w:style w:type="paragraph" w:styleId="Own"><w:name w:val="Own"/><w:basedOn w:val="berschrift1"/></w:style>'
    '<w:style w:type="paragraph" w:styleId="Toc1"><w:name w:val="toc 1"/></w:style>'
    '<w:style w:type="character" w:styleId="Latin"><w:name w:val="Latin"/><w:rPr><w:lang w:val="la"/></w:rPr></w:style>'
    '<w:style w:styleId="Part"><w:name w:val="Part"/><w:pPr><w:outlineLvl w:val="0"/></w:pPr></w:style>'
    '<w:style w:styleId="Low"><w:basedOn w:val="Own"/><w:pPr><w:outlineLvl w:val="9"/></w:pPr></w:style>'
    '<w:style w:type="character" w:styleId="Fixed"><w:name w:val="HTML Code"/></w:style>'
    '<w:style w:type="paragraph" w:styleId="Pre"><w:name w:val="HTML Preformatted"/></w:style>'
    "</w:styles>"
)


def run(text: str, properties: str = "", attributes: str = "") -> str:
    held = f"<w:rPr>{properties}</w:rPr>" if properties else ""
    return f'<w:r{attributes}>{held}<w:t xml:space="preserve">{text}</w:t></w:r>'


def paragraph(text: str, properties: str = "") -> str:
    return f"<w:p>{properties}{run(text)}</w:p>"


def field(kind: str) -> str:
    return f'<w:r><w:fldChar w:fldCharType="{kind}"/></w:r>'


def instruction(text: str) -> str:
    return f'<w:r><w:instrText xml:space="preserve"> {text} </w:instrText></w:r>'


def complex_field(text: str, result: str) -> str:
    return field("begin") + instruction(text) + field("separate") + result + field("end")


def box(first: str, second: str | None = None) -> str:
    """A text box, as Word writes it, with what older programs read."""
    second = first if second is None else second
    return (
        '<w:r><mc:AlternateContent><mc:Choice Requires="wps"><w:drawing><wp:inline><a:graphic><a:graphicData>'
        f"<wps:txbx><w:txbxContent>{first}</w:txbxContent></wps:txbx></a:graphicData></a:graphic></wp:inline></w:drawing>"
        f"</mc:Choice><mc:Fallback><w:pict><v:textbox><w:txbxContent>{second}</w:txbxContent></v:textbox></w:pict>"
        "</mc:Fallback></mc:AlternateContent></w:r>"
    )


CODE = '<w:rStyle w:val="Fixed"/>'
BOLD, LINK = "<w:b/>", '<w:rStyle w:val="Hyperlink"/>'
TAB, BREAK = "<w:r><w:tab/></w:r>", "<w:r><w:br/></w:r>"


def link(text: str) -> str:
    return f'<w:hyperlink w:anchor="_a">{text}</w:hyperlink>'


def bookmark(text: str) -> str:
    return f'<w:bookmarkStart w:id="0" w:name="_a"/>{text}<w:bookmarkEnd w:id="0"/>'


def control(kind: str, text: str) -> str:
    return f"<w:sdt><w:sdtPr><w:{kind}/></w:sdtPr><w:sdtContent>{text}</w:sdtContent></w:sdt>"


def change(kind: str, text: str, date: str = "2020-01-01T00:00:00Z") -> str:
    return f'<w:{kind} w:id="1" w:author="A" w:date="{date}">{text}</w:{kind}>'


SPELLING = '<w:proofErr w:type="spellStart"/>', '<w:proofErr w:type="spellEnd"/>'
RUBY = "<w:rt><w:r><w:t>はし</w:t></w:r></w:rt><w:rubyBase><w:r><w:t>走</w:t></w:r></w:rubyBase>"
NOTE = '<w:r><w:rPr><w:vertAlign w:val="superscript"/></w:rPr><w:footnoteReference w:id="2"/></w:r>'
COMMENT = '<w:commentRangeEnd w:id="0"/><w:r><w:commentReference w:id="0"/></w:r>'
CITY = f'<w:smartTag w:uri="u" w:element="City"><w:smartTagPr/>{run("Rome")}</w:smartTag>'
DATED = run("a ") + complex_field("DATE", run("May"))
NAMED = complex_field("PAGEREF _a", run("1"))
BEGUN = field("begin") + instruction('TOC \\o "1-3"') + field("separate")
# What is in a paragraph, and what the model sees of it.
CONTENTS: list[tuple[str, str | None]] = [
    (run("He lit the lamp."), "He lit the lamp."),
    (run("He ") + run("lit", BOLD) + run(" the lamp."), "He <1>lit</1> the lamp."),
    # As Word takes runs apart.
    (run("He ", "", ' w:rsidR="0A"') + SPELLING[0] + run("l", "<w:lang/>") + SPELLING[1] + run("it."), "He lit."),
    (run("It ", '<w:noProof/><w:spacing w:val="-2"/>') + run("was", '<w:rFonts w:hint="eastAsia"/>'), "It was"),
    ("<w:r><w:t> Late </w:t><w:lastRenderedPageBreak/></w:r>" + run(" ", BOLD) + run("there"), "Late there"),
    (run("No ", BOLD) + run("main ", BOLD) + run("text", BOLD), "No main text"),
    (run("Any ") + run("th", BOLD) + run("is ", BOLD + "<w:lang/>") + run("plain text"), "Any <1>this</1> plain text"),
    (run("Far ") + run("apart", '<w:spacing w:val="60"/>') + run(" it is"), "Far <1>apart</1> it is"),
    (
        run("All this ") + run("big", BOLD) + run(" ") + run("deal", BOLD) + run(" of it"),
        "All this <1>big deal</1> of it",
    ),
    ("<w:r><w:t>La </w:t></w:r>" + run("te", BOLD) + run(" is what it was"), "La<1>te</1> is what it was"),
    # Things.
    (run("Name:") + TAB + run("Ann") + BREAK + run("Lee"), "Name:<1/>Ann<2/>Lee"),
    ('<w:r><w:tab/><w:t>a</w:t><w:tab/><w:tab/><w:t>b</w:t><w:br w:type="page"/></w:r>', "a<1/>b"),
    (run("Sign:      ") + run("          ", "<w:u/>") + run(" here"), "Sign:<1/> here"),
    (run("A note") + NOTE + run("."), "A note<1/>."),
    (run("x") + "<m:oMath><m:r><m:t>abc</m:t></m:r></m:oMath>" + run(" is a number"), "x<1/> is a number"),
    (run("See ") + bookmark(run("this")) + run(" now"), "See <1/>this<2/> now"),
    (bookmark(run("All")), "All"),
    ('<w:commentRangeStart w:id="0"/>' + run("Said") + COMMENT, "Said"),
    ("<w:r><w:t>e</w:t><w:noBreakHyphen/><w:t>mail</w:t><w:softHyphen/></w:r>" + run("er"), "e\u2011mail\u00ader"),
    ('<w:r><w:sym w:font="Wingdings" w:char="F0FC"/></w:r>' + run("Done"), "Done"),
    (f"<w:r><w:ruby><w:rubyPr/>{RUBY}</w:ruby><w:t>った</w:t></w:r>", "走った"),
    ("<w:r><w:t>a<!-- c -->b</w:t></w:r>" + run(" of it"), "<1>ab</1> of it"),
    (run("Sign ") + run("____________", BOLD) + run(" here....... now"), "Sign <1/> here<2/> now"),
    (run("Type ") + run("ls ", CODE) + run("-l ", CODE + BOLD) + run("first"), "Type <1>ls -l</1> first"),
    (run("ls", CODE), None),
    # What is around.
    (run("See ") + link(run("the ", LINK) + run("site", LINK + BOLD)), "See <1><2>the</2> <3>site</3></1>"),
    (run("See ") + link(run("here", LINK)) + run("."), "See <1>here</1>."),
    (link(run("All of it", LINK)), "All of it"),
    (run("See ", BOLD) + link(run("this long one")), "See <1>this long one</1>"),
    (run("A ") + link(box("")) + run("there"), "A <1/>there"),
    (run("In ") + CITY, "In <1>Rome</1>"),
    (run("By ") + control("text", run("you")) + run(" alone"), "By <1>you</1> alone"),
    (run("On ") + control("date", run("1 May")) + run(" it began"), "On <1>1 May</1> it began"),
    # Fields.
    (run("Page ") + complex_field("PAGE", run("3")) + run(" of all"), "Page <1/> of all"),
    (run("So ") + f'<w:fldSimple w:instr=" AUTHOR ">{run("Ann")}</w:fldSimple>' + run(" said"), "So <1>Ann</1> said"),
    (run("See ") + complex_field("REF _a \\h", run("Table 3", BOLD)) + run(" too"), "See <1>Table 3</1> too"),
    (run("See ") + complex_field('HYPERLINK "https://a.b"', run("this", LINK)) + run(" too"), "See <1>this</1> too"),
    (run("If ") + complex_field("IF x", DATED) + run(" then"), "If <1>a May</1> then"),
    (BEGUN + run("First entry") + TAB + NAMED, "First entry"),
    (run("Last ") + field("end") + run("of ") + BEGUN + run("these"), "Last <1/>of <2/>these"),
    # Changes.
    (
        run("He ") + change("ins", run("has ")) + change("ins", run("done"), "") + run(" this alone"),
        "He <1>has done</1> this alone",
    ),
    (run("He ") + change("del", "<w:r><w:delText>never</w:delText></w:r>") + run(" did"), "He <1/> did"),
    (change("moveFrom", run("Gone")), None),
    (change("del", box(paragraph("Gone"))), None),
    ("<w:r><w:drawing><a:p><a:r><a:t>Drawn</a:t></a:r></a:p></w:drawing></w:r>", None),
    (run("12.5 %"), None),
    ("", None),
]
PARAGRAPHS = "".join(f'<w:p><w:pPr><w:jc w:val="left"/></w:pPr>{content}</w:p>' for content, _ in CONTENTS)
BOXED = box(paragraph("In a box") + paragraph("Twice") * 2)
OLD = box(paragraph("Alone"), paragraph("For old programs"))
ENTRY = f"{run('The Keeper')}<w:r><w:tab/></w:r>{complex_field('PAGEREF x', run('4'))}"
BODY = (
    f'<w:p><w:pPr><w:pStyle w:val="Toc1"/></w:pPr><w:hyperlink w:anchor="x">{ENTRY}</w:hyperlink></w:p>'
    f'<w:p><w:pPr><w:pStyle w:val="Own"/></w:pPr>{run("The Keeper")}</w:p>{PARAGRAPHS}'
    f"<w:tbl><w:tblPr/><w:tblGrid/><w:tr><w:tc><w:tcPr/>{paragraph('Cell &lt;1&gt; &amp; — “q”')}</w:tc>"
    f"<w:tc>{paragraph('7')}</w:tc></w:tr></w:tbl><w:p>{run('Beside ')}{BOXED}{run('the box')}</w:p>"
    f'<w:p w14:paraId="1"><w:pPr><w:outlineLvl w:val="1"/></w:pPr>{run("Part two")}</w:p><w:p>{OLD}</w:p>'
    f"<w:sdt><w:sdtPr><w:dataBinding/></w:sdtPr><w:sdtContent>{paragraph('Bound')}</w:sdtContent></w:sdt>"
    f'<w:p><w:pPr><w:pStyle w:val="Pre"/></w:pPr>{run("rm -r all")}</w:p>'
    f"<w:sdt><w:sdtPr/><w:sdtContent>{paragraph('Unbound')}</w:sdtContent></w:sdt><w:sectPr/>"
)
NOTES = (
    f"{XML}<w:footnotes {NAMES}><w:footnote w:id='0'><w:p><w:r><w:separator/></w:r></w:p></w:footnote>"
    f"<w:footnote w:id='2'><w:p><w:r><w:footnoteRef/></w:r>{run(' A note.')}</w:p></w:footnote></w:footnotes>"
)
FILES = {
    "[Content_Types].xml": TYPES.encode(),
    "_rels/.rels": relationships(("officeDocument", "word/document.xml")).encode(),
    "word/_rels/document.xml.rels": relationships(
        ("header", "header1.xml"), ("styles", "styles.xml"), ("footnotes", "/word/footnotes.xml"),
        ("comments", "comments.xml"), ("hyperlink", "https://a.b"),
    ).encode(),
    "word/document.xml": f"{XML}<w:document {NAMES}><w:body>{BODY}</w:body></w:document>".encode(),
    "word/header1.xml": f"{XML}<w:hdr {NAMES}><w:p>{run('Head')}</w:p></w:hdr>".encode(),
    "word/footnotes.xml": NOTES.encode(),
    "word/comments.xml": f"{XML}<w:comments {NAMES}><w:comment>{paragraph('Why?')}</w:comment></w:comments>".encode(),
    "word/styles.xml": STYLES.encode(),
    "word/media/image1.png": b"\x89PNG" + bytes(range(256)),
}  # fmt: skip
SOURCES = [
    "The Keeper",
    *(text for _, text in CONTENTS if text is not None),
    "Cell <1> & — “q”",
    "Beside <1/>the box",
    "In a box",
    "Twice",
    "Twice",
    "Part two",
    "Alone",
    "For old programs",
    "Unbound",
    "A note.",
    "Head",
]


def document(changed: dict[str, bytes | str | None] | None = None) -> bytes:
    """An archive with some members changed, or left out (None)."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, raw in {**FILES, **(changed or {})}.items():
            if raw is not None:
                kind = zipfile.ZIP_STORED if name.endswith(".png") else zipfile.ZIP_DEFLATED
                archive.writestr(zipfile.ZipInfo(name, (2020, 2, 3, 4, 5, 6)), raw, kind)
    return target.getvalue()


def with_body(body: str) -> bytes:
    """A document of another text alone."""
    page = f"{XML}<w:document {NAMES}><w:body>{body}</w:body></w:document>"
    return document(
        {"word/document.xml": page, "word/_rels/document.xml.rels": relationships(("styles", "styles.xml"))}
    )
