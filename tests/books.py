"""An EPUB with a little of everything, and what of it is changed for a test."""

from __future__ import annotations

import io
import random
import zipfile

CONTAINER = (
    '<?xml version="1.0"?><container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
)
OPF = """<?xml version="1.0" encoding="UTF-8"?>
<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="id">
  <metadata xmlns:dc="http://purl.org/dc/elements/1.1/">
    <dc:title>The Lighthouse</dc:title>
    <dc:language id="l">en</dc:language>
  </metadata>
  <manifest>
    <item id="two" href="text/chapter%202.xhtml" media-type="application/xhtml+xml"/>
    <item id="one" href="text/one.xhtml" media-type="application/xhtml+xml"/>
    <item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>
    <item id="ncx" href="toc.ncx" media-type="application/x-dtbncx+xml"/>
    <item id="css" href="style.css" media-type="text/css"/>
    <item id="img" href="lamp.png" media-type="image/png"/>
  </manifest>
  <spine toc="ncx"><itemref idref="one"/><itemref idref="two" linear="no"/></spine>
</package>
"""
ONE = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE html>
<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops" xml:lang="en" class='x'>
<head><title>The  Keeper</title><style>p { color: red }</style></head>
<body>
  <!-- a comment -->
  <h1 id="a">The <em>Keeper</em></h1>
  <p class="first">  <span class="cap">H</span>e lit&nbsp;the <b>lamp</b> &amp; slept<a
    epub:type="noteref" href="#n1"><sup>1</sup></a>.
  </p>
  <p>* * *</p>
  <p>1847</p>
  <div>Loose text<p>Inside</p>and after<br/>it.</div>
  <ul><li>Item <i>one</i><ul><li><p>Deep</p></li></ul></li></ul>
  <table><tr><th>Head</th><td>12</td><td>Cell &#8212; &#x201C;q&#x201D;</td></tr></table>
  <pre>pre <b>text</b></pre>
  <p>Run <code>ls &lt;dir&gt;</code> and <img src="../lamp.png" alt="A lamp"/> look.</p>
  <script>var x = "text";</script>
  <p><![CDATA[Raw < text]]> here</p>
  <svg xmlns="http://www.w3.org/2000/svg"><text>Drawn</text></svg>
  <p translate="no">Leave me</p>
  <aside id="n1" epub:type="footnote"><p>A <i><b>note</b></i>.</p></aside>
</body>
</html>
"""
TWO = (
    '<html xmlns="http://www.w3.org/1999/xhtml" lang="en" dir="ltr"><head><title>x</title></head>'
    "<body><h2>The Storm<br/>comes</h2>\r\n<p>He &lt;1&gt; ran.</p></body></html>"
)
NAV = """<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops"><head><title>t</title></head>
<body><nav epub:type="toc"><h2>Contents</h2><ol>
<li><a href="text/one.xhtml">The Keeper</a></li>
<li><a href="text/chapter%202.xhtml">The Storm comes</a></li>
<li><a href="text/one.xhtml#n1">Notes</a></li></ol></nav>
<nav epub:type="page-list"><ol><li><a href="text/one.xhtml">iv</a></li></ol></nav></body></html>
"""
NCX = """<?xml version="1.0"?>
<ncx xmlns="http://www.daisy.org/z3986/2005/ncx/" xml:lang="en" version="2005-1">
<docTitle><text>The Lighthouse</text></docTitle><docAuthor><text>A. Finch</text></docAuthor>
<navMap><navPoint id="p1"><navLabel><text>The Keeper</text></navLabel><content src="text/one.xhtml"/></navPoint>
<navPoint id="p2"><navLabel><text>Notes</text></navLabel><content src="text/one.xhtml#n1"/></navPoint>
<navPoint id="p3"><navLabel><text>About &amp; more</text></navLabel><content src="text/one.xhtml"/></navPoint></navMap>
<pageList><pageTarget><navLabel><text>iv</text></navLabel></pageTarget></pageList></ncx>
"""
FILES = {
    "mimetype": b"application/epub+zip",
    "META-INF/container.xml": CONTAINER.encode(),
    "OEBPS/lamp.png": bytes(random.Random(0).randbytes(500)),
    "OEBPS/text/one.xhtml": ONE.encode(),
    "OEBPS/book.opf": OPF.encode(),
    "OEBPS/text/chapter 2.xhtml": TWO.encode(),
    "OEBPS/nav.xhtml": NAV.encode(),
    "OEBPS/toc.ncx": NCX.encode(),
    "OEBPS/style.css": b"p { margin: 0 }\r\n",
}
SOURCES = [
    "The <1>Keeper</1>",
    "<1>H</1>e lit\u00a0the <2>lamp</2> & slept<3/>.",
    "Loose text",
    "Inside",
    "and after<1/>it.",
    "Item <1>one</1>",
    "Deep",
    "Head",
    "Cell — “q”",
    "Run <1>ls <dir></1> and <2/> look.",
    "Raw < text here",
    "A <1>note</1>.",
    "The Storm<1/>comes",
    "He <1> ran.",
    "Contents",
    "Notes",
    "About & more",
]


def book(changed: dict[str, bytes | str | None] | None = None, **also: bytes) -> bytes:
    """An archive with some members changed, or left out (None)."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, raw in {**FILES, **(changed or {})}.items():
            if raw is not None:
                kind = zipfile.ZIP_STORED if name in ("mimetype", "OEBPS/lamp.png") else zipfile.ZIP_DEFLATED
                archive.writestr(zipfile.ZipInfo(name, (2020, 2, 3, 4, 5, 6)), raw, kind)
    return target.getvalue()


def members(raw: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        assert archive.testzip() is None
        return {info.filename: archive.read(info) for info in archive.infolist()}


BOMB = '<!DOCTYPE html [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><html><body><p>&b;</p></body></html>'
ENCRYPTED = (
    '<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container" xmlns:enc="http://www.w3.org/2001/04/xmlenc#">'
    '<enc:EncryptedData><enc:CipherData><enc:CipherReference URI="{}"/></enc:CipherData></enc:EncryptedData>'
    "</encryption>"
)
ONE_PATH, TWO_PATH = "OEBPS/text/one.xhtml", "OEBPS/text/chapter 2.xhtml"
