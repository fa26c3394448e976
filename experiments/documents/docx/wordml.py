"""Markup of Word, and what else is in the file of a Word document."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

XML = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\r\n'
OPEN = "http://schemas.openxmlformats.org"
NAMES = (
    f'xmlns:w="{OPEN}/wordprocessingml/2006/main" xmlns:r="{OPEN}/officeDocument/2006/relationships" '
    f'xmlns:wp="{OPEN}/drawingml/2006/wordprocessingDrawing" xmlns:a="{OPEN}/drawingml/2006/main" '
    f'xmlns:pic="{OPEN}/drawingml/2006/picture" xmlns:mc="{OPEN}/markup-compatibility/2006" '
    f'xmlns:m="{OPEN}/officeDocument/2006/math" xmlns:v="urn:schemas-microsoft-com:vml" '
    'xmlns:wps="http://schemas.microsoft.com/office/word/2010/wordprocessingShape" '
    'xmlns:w14="http://schemas.microsoft.com/office/word/2010/wordml" mc:Ignorable="w14"'
)
WORD = "application/vnd.openxmlformats-officedocument.wordprocessingml"

# Markup --------------------------------------------------------------------------------------------------------------

BOLD, ITALIC = "<w:b/><w:bCs/>", "<w:i/><w:iCs/>"
LINK, CODE = '<w:rStyle w:val="Hyperlink"/>', '<w:rStyle w:val="CodeChar"/>'
RAISED, LOWERED = '<w:vertAlign w:val="superscript"/>', '<w:vertAlign w:val="subscript"/>'
TAB, BREAK = "<w:r><w:tab/></w:r>", "<w:r><w:br/></w:r>"
CHANGE = 'w:author="M. Okafor" w:date="2024-03-04T09:30:00Z"'


def r(text: str, properties: str = "", attributes: str = "") -> str:
    """A run."""
    held = f"<w:rPr>{properties}</w:rPr>" if properties else ""
    return f'<w:r{attributes}>{held}<w:t xml:space="preserve">{text}</w:t></w:r>'


def p(*content: str, style: str = "", more: str = "") -> str:
    """A paragraph; what is no markup is a run."""
    held = (f'<w:pStyle w:val="{style}"/>' if style else "") + more
    runs = "".join(part if part.startswith("<") else r(part) for part in content)
    return f'<w:p w:rsidR="00A41C2E">{f"<w:pPr>{held}</w:pPr>" if held else ""}{runs}</w:p>'


def item(*content: str, level: int = 0, numbered: bool = False) -> str:
    held = f'<w:numPr><w:ilvl w:val="{level}"/><w:numId w:val="{1 + numbered}"/></w:numPr>'
    return p(*content, style="ListParagraph", more=held)


def edge(kind: str) -> str:
    return f'<w:r><w:fldChar w:fldCharType="{kind}"/></w:r>'


def field(code: str, result: str) -> str:
    shown = result if result.startswith("<") else r(result)
    told = f'<w:r><w:instrText xml:space="preserve"> {code} </w:instrText></w:r>'
    return edge("begin") + told + edge("separate") + shown + edge("end")


def link(target: str, text: str) -> str:
    where = f'w:anchor="{target[1:]}"' if target.startswith("#") else f'r:id="{target}"'
    return f'<w:hyperlink {where} w:history="1">{r(text, LINK)}</w:hyperlink>'


def bookmark(name: str, content: str) -> str:
    number = zlib.crc32(name.encode()) % 1000
    return f'<w:bookmarkStart w:id="{number}" w:name="{name}"/>{content}<w:bookmarkEnd w:id="{number}"/>'


def table(*rows: tuple[str, ...], widths: tuple[int, ...]) -> str:
    """A table; the first row is its head. A cell is text, or paragraphs."""
    found = '<w:tbl><w:tblPr><w:tblStyle w:val="TableGrid"/><w:tblW w:w="0" w:type="auto"/></w:tblPr><w:tblGrid>'
    found += "".join(f'<w:gridCol w:w="{width}"/>' for width in widths) + "</w:tblGrid>"
    for at, row in enumerate(rows):
        found += "<w:tr>" + "<w:trPr><w:tblHeader/></w:trPr>" * (at == 0)
        for text, width in zip(row, widths, strict=True):
            held = text if text.startswith("<w:") else p(r(text, BOLD) if at == 0 else text)
            found += f'<w:tc><w:tcPr><w:tcW w:w="{width}" w:type="dxa"/></w:tcPr>{held}</w:tc>'
        found += "</w:tr>"
    return f"{found}</w:tbl>"


def drawing(inner: str, kind: str, name: str) -> str:
    held = f'<a:graphic><a:graphicData uri="{kind}">{inner}</a:graphicData></a:graphic>'
    size = '<wp:extent cx="1440000" cy="720000"/>'
    return f'<w:drawing><wp:inline>{size}<wp:docPr id="1" name="{name}"/>{held}</wp:inline></w:drawing>'


def picture(number: int = 1) -> str:
    shape = '<a:xfrm><a:off x="0" y="0"/><a:ext cx="1440000" cy="720000"/></a:xfrm><a:prstGeom prst="rect"/>'
    held = (
        '<pic:pic><pic:nvPicPr><pic:cNvPr id="1" name="lamp.png"/><pic:cNvPicPr/></pic:nvPicPr><pic:blipFill>'
        f'<a:blip r:embed="rImage{number}"/></pic:blipFill><pic:spPr>{shape}</pic:spPr></pic:pic>'
    )
    return f"<w:r>{drawing(held, f'{OPEN}/drawingml/2006/picture', 'Picture')}</w:r>"


def box(content: str) -> str:
    """A text box: for Word of today, and again for Word of old."""
    text = f"<w:txbxContent>{content}</w:txbxContent>"
    held = f"<wps:wsp><wps:cNvSpPr/><wps:spPr/><wps:txbx>{text}</wps:txbx><wps:bodyPr/></wps:wsp>"
    new = drawing(held, "http://schemas.microsoft.com/office/word/2010/wordprocessingShape", "Box")
    old = f'<w:pict><v:rect style="width:113pt"><v:textbox>{text}</v:textbox></v:rect></w:pict>'
    return (
        f'<w:r><mc:AlternateContent><mc:Choice Requires="wps">{new}</mc:Choice><mc:Fallback>{old}'
        "</mc:Fallback></mc:AlternateContent></w:r>"
    )


def section(more: str = "", columns: int = 1) -> str:
    margins = "".join(f' w:{side}="1440"' for side in ("top", "right", "bottom", "left"))
    margins += ' w:header="708" w:footer="708" w:gutter="0"'
    size = f'<w:pgSz w:w="11906" w:h="16838"/><w:pgMar{margins}/>'
    return f'<w:sectPr>{more}{size}<w:cols w:num="{columns}" w:space="708"/></w:sectPr>'


def control(properties: str, content: str) -> str:
    return f"<w:sdt><w:sdtPr>{properties}</w:sdtPr><w:sdtContent>{content}</w:sdtContent></w:sdt>"


def notes(kind: str, *texts: str) -> str:
    """Footnotes or endnotes, with what separates them from the text."""
    found = f'<w:{kind}s {NAMES}><w:{kind} w:type="separator" w:id="-1"><w:p><w:r><w:separator/></w:r></w:p></w:{kind}>'
    for number, text in enumerate(texts, 1):
        mark = f'<w:r><w:rPr><w:rStyle w:val="NoteReference"/></w:rPr><w:{kind}Ref/></w:r>'
        found += f'<w:{kind} w:id="{number}">{p(mark, f" {text}", style="NoteText")}</w:{kind}>'
    return f"{found}</w:{kind}s>"


def note(number: int, kind: str = "footnote") -> str:
    return f'<w:r><w:rPr><w:rStyle w:val="NoteReference"/></w:rPr><w:{kind}Reference w:id="{number}"/></w:r>'


# Files ---------------------------------------------------------------------------------------------------------------


def style(kind: str, name: str, title: str, properties: str = "", based: str = "Normal") -> str:
    default = ' w:default="1"' * (name == "Normal")
    on = f'<w:basedOn w:val="{based}"/>' if kind == "paragraph" and not default else ""
    return f'<w:style w:type="{kind}"{default} w:styleId="{name}"><w:name w:val="{title}"/>{on}{properties}</w:style>'


STYLES = (
    f'{XML}<w:styles {NAMES}><w:docDefaults><w:rPrDefault><w:rPr><w:rFonts w:ascii="Calibri" w:hAnsi="Calibri"/>'
    '<w:sz w:val="22"/><w:szCs w:val="22"/><w:lang w:val="en-GB" w:eastAsia="en-US" w:bidi="ar-SA"/></w:rPr>'
    '</w:rPrDefault><w:pPrDefault><w:pPr><w:spacing w:after="160" w:line="259" w:lineRule="auto"/></w:pPr>'
    "</w:pPrDefault></w:docDefaults>"
    + style("paragraph", "Normal", "Normal")
    + style("paragraph", "Title", "Title", '<w:rPr><w:sz w:val="48"/><w:szCs w:val="48"/></w:rPr>')
    + "".join(
        style(
            "paragraph",
            f"Heading{level}",
            f"heading {level}",
            f'<w:pPr><w:keepNext/><w:outlineLvl w:val="{level - 1}"/></w:pPr>'
            f'<w:rPr>{BOLD}<w:sz w:val="{36 - 4 * level}"/></w:rPr>',
        )
        for level in (1, 2)
    )
    + style(
        "paragraph",
        "TOC1",
        "toc 1",
        '<w:pPr><w:tabs><w:tab w:val="right" w:leader="dot" w:pos="9016"/></w:tabs></w:pPr>',
    )
    + style("paragraph", "Caption", "caption", f"<w:rPr>{ITALIC}</w:rPr>")
    + style("paragraph", "ListParagraph", "List Paragraph", '<w:pPr><w:ind w:left="720"/></w:pPr>')
    + style("paragraph", "Quote", "Quote", f"<w:rPr>{ITALIC}</w:rPr>")
    + style("paragraph", "Code", "Code", '<w:rPr><w:rFonts w:ascii="Consolas" w:hAnsi="Consolas"/><w:noProof/></w:rPr>')
    + style("paragraph", "NoteText", "footnote text", '<w:rPr><w:sz w:val="18"/></w:rPr>')
    + style("character", "CodeChar", "Code Char", '<w:rPr><w:rFonts w:ascii="Consolas" w:hAnsi="Consolas"/></w:rPr>')
    + style("character", "NoteReference", "footnote reference", f"<w:rPr>{RAISED}</w:rPr>")
    + style("character", "Hyperlink", "Hyperlink", '<w:rPr><w:color w:val="0563C1"/><w:u w:val="single"/></w:rPr>')
    + style("table", "TableGrid", "Table Grid")
    + "</w:styles>"
)
LEVELS = "".join(
    f'<w:abstractNum w:abstractNumId="{number}">'
    + "".join(
        f'<w:lvl w:ilvl="{level}"><w:start w:val="1"/><w:numFmt w:val="{kind}"/><w:lvlText w:val="{text}"/>'
        f'<w:pPr><w:ind w:left="{720 * (level + 1)}" w:hanging="360"/></w:pPr></w:lvl>'
        for level, text in enumerate(texts)
    )
    + "</w:abstractNum>"
    for number, kind, texts in ((0, "bullet", ("•", "–")), (1, "decimal", ("%1.", "%1.%2.")))
)
USED = "".join(f'<w:num w:numId="{n + 1}"><w:abstractNumId w:val="{n}"/></w:num>' for n in (0, 1))
NUMBERING = f"{XML}<w:numbering {NAMES}>{LEVELS}{USED}</w:numbering>"


def image() -> bytes:
    """A lamp, more or less."""
    rows = b"".join(b"\0" + bytes(255 if abs(x - 16) < y else 40 for x in range(32)) for y in range(16))
    head = struct.pack(">2I5B", 32, 16, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def write(name: str, body: str, parts: dict[str, str], links: dict[str, str] | None = None) -> None:
    """Writes a document.

    Args:
        parts: further ones; header1, footnotes and so on.
        links: addresses, by the names that the text has for them.
    """
    held = {"styles": STYLES, "numbering": NUMBERING, **parts}
    types = f'{XML}<Types xmlns="{OPEN}/package/2006/content-types"><Default Extension="png" ContentType="image/png"/>'
    types += '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    types += '<Default Extension="xml" ContentType="application/xml"/>'
    types += f'<Override PartName="/word/document.xml" ContentType="{WORD}.document.main+xml"/>'
    rels = f'{XML}<Relationships xmlns="{OPEN}/package/2006/relationships">'
    top = f'{rels}<Relationship Id="rId1" Type="{OPEN}/officeDocument/2006/relationships/officeDocument" '
    for part in held:
        kind = part.rstrip("0123456789")
        types += f'<Override PartName="/word/{part}.xml" ContentType="{WORD}.{kind}+xml"/>'
        rels += f'<Relationship Id="r{part.title()}" Type="{OPEN}/officeDocument/2006/relationships/{kind}" '
        rels += f'Target="{part}.xml"/>'
    image_ = (
        f'<Relationship Id="rImage1" Type="{OPEN}/officeDocument/2006/relationships/image" Target="media/lamp.png"/>'
    )
    for key, address in (links or {}).items():
        rels += f'<Relationship Id="{key}" Type="{OPEN}/officeDocument/2006/relationships/hyperlink" '
        rels += f'Target="{address}" TargetMode="External"/>'
    alone = f'<Relationships xmlns="{OPEN}/package/2006/relationships">{image_}</Relationships>'
    files = {
        "[Content_Types].xml": f"{types}</Types>",
        "_rels/.rels": f'{top}Target="word/document.xml"/></Relationships>',
        "word/document.xml": f"{XML}<w:document {NAMES}><w:body>{body}</w:body></w:document>",
        "word/_rels/document.xml.rels": f"{rels}{image_}</Relationships>",
        **{f"word/_rels/{part}.xml.rels": f"{XML}{alone}" for part in held if part == "header1"},
        **{f"word/{part}.xml": text if text.startswith("<?xml") else XML + text for part, text in held.items()},
        "word/media/lamp.png": image(),
    }
    with zipfile.ZipFile(Path(__file__).parent / f"{name}.docx", "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            archive.writestr(zipfile.ZipInfo(path, (2024, 3, 4, 9, 30, 0)), content, zipfile.ZIP_DEFLATED)


def header(*content: str) -> str:
    return f"<w:hdr {NAMES}>{''.join(content)}</w:hdr>"


def footer(*content: str) -> str:
    return f"<w:ftr {NAMES}>{''.join(content)}</w:ftr>"


HEADER, FOOTER = (
    '<w:headerReference w:type="default" r:id="rHeader1"/>',
    '<w:footerReference w:type="default" r:id="rFooter1"/>',
)
PAGES = p("Page ", field("PAGE", "1"), " of ", field("NUMPAGES", "3"), more='<w:jc w:val="center"/>')
