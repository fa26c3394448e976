#!/usr/bin/env python3
"""Five Word documents of our own, in the shapes that Word and its like give them: the same bytes each time.

    experiments/documents/docx/make.py

A letter, a report, a manual, a newsletter and a contract, beside this file.
"""

# ruff: noqa: E501 - a paragraph is on one line
from __future__ import annotations

from wordml import (
    BOLD,
    BREAK,
    CHANGE,
    CODE,
    FOOTER,
    HEADER,
    ITALIC,
    LINK,
    LOWERED,
    NAMES,
    PAGES,
    RAISED,
    TAB,
    bookmark,
    box,
    control,
    edge,
    field,
    footer,
    header,
    item,
    link,
    note,
    notes,
    p,
    picture,
    r,
    section,
    table,
    write,
)


def letter() -> None:
    body = (
        p("Harbour Office", BREAK, "14 Quay Street", BREAK, "Port Ellen")
        + p(field('DATE \\@ "d MMMM yyyy"', "4 March 2024"), more='<w:jc w:val="right"/>')
        + p(r("Your request for a new lamp", BOLD))
        + p("Dear ", control("<w:alias w:val='Name'/><w:text/>", r("Mrs Calder")), ",")
        # As Word leaves it behind after three people have been at it.
        + p(
            r("Thank you for your ", "", ' w:rsidRPr="00B2"'), '<w:proofErr w:type="spellStart"/>', r("lett", '<w:lang w:val="en-US"/>'),
            r("er", "<w:noProof/>"), '<w:proofErr w:type="spellEnd"/>', r(" of the ", "", ' w:rsidR="00C3"'), "first of March. ",
            r("We have read it with ", '<w:rFonts w:hint="eastAsia"/>'), r("great", ITALIC), r(" care", ITALIC), " and we agree: the old lamp is too weak.",
        )
        + p("The new lamp arrives on ", r("Tuesday, 12 March", BOLD + '<w:u w:val="single"/>'), ". Please tell us who will be at the tower on that day.")
        + p("You will need:")
        + item("a ladder of at least four metres,") + item("two people who are not afraid of heights,") + item("dry weather.")
        + p("The bill for the transport (£240) is enclosed. If you have any questions, write to ", link("rMail", "harbour@example.org"), " or call 01496\u00a0302\u00a0000.")
        + p("Yours sincerely,")
        + p("<w:r><w:t xml:space='preserve'>                                        </w:t></w:r>", TAB, TAB, r("          ", "<w:u w:val='single'/>"))
        + p(r("Martin Okafor", BOLD), BREAK, "Harbour master")
        + p("P.S. The keeper\u2019s bicycle is still in our shed. Shall we bring it along?")
        + p(r("Signed", BOLD), TAB, "__________", TAB, r("Date", BOLD), TAB, "__________", more='<w:tabs><w:tab w:val="left" w:pos="2268"/></w:tabs>')
        + section(HEADER + FOOTER)
    )  # fmt: skip
    head = header(
        p(picture(), TAB, r("Harbour Trust", BOLD + '<w:sz w:val="28"/>')), p("Lights, buoys and ferries since 1847")
    )
    write("letter", body, {"header1": head, "footer1": footer(PAGES)}, {"rMail": "mailto:harbour@example.org"})


def entry(title: str, anchor: str, page: str, first: bool = False) -> str:
    begun = (
        edge("begin")
        + '<w:r><w:instrText xml:space="preserve"> TOC \\o "1-1" \\h </w:instrText></w:r>'
        + edge("separate")
    )
    held = r(title) + TAB + field(f"PAGEREF {anchor}", page)
    return p((begun if first else "") + f'<w:hyperlink w:anchor="{anchor}">{held}</w:hyperlink>', style="TOC1")


def report() -> None:
    titles = {
        "_Toc1": "Summary",
        "_Toc2": "How the light was measured",
        "_Toc3": "Results",
        "_Toc4": "What we recommend",
    }
    contents = "".join(entry(title, key, str(at + 1), at == 0) for at, (key, title) in enumerate(titles.items()))

    def heading(key: str) -> str:
        return p(bookmark(key, r(titles[key])), style="Heading1")

    body = (
        p("The light on North Island", style="Title")
        + p("Report for the year 2023", style="Quote")
        + control("<w:docPartObj><w:docPartGallery w:val='Table of Contents'/></w:docPartObj>", p("Contents", style="Quote") + contents + p(edge("end")))
        + heading("_Toc1")
        + p("In 2023 the light failed ", r("eleven", BOLD), " times, twice as often as in the year before.", note(1), " Most of the failures had the same cause: damp in the cellar.")
        + p("The light needs CO", r("2", LOWERED), "-free air and a floor of 20 m", r("2", RAISED), ". Neither is there today.")
        + heading("_Toc2")
        + p("Every night at ten a boat went out and measured the light from a distance of one mile. The brightness follows from the law ",
            "<m:oMath><m:r><m:t>E = I / d</m:t></m:r></m:oMath>", ", as ", field("REF _Tab1 \\h", "Table 1"), " shows.")
        + p("The measuring device", style="Heading2")
        + p("We used a meter of the type LX\u2011100", note(2), ". It was checked in May and again in ", r("October", ITALIC), ".")
        + heading("_Toc3")
        + p(bookmark("_Tab1", r("Table ") + field("SEQ Table", "1")), ": Failures by season", style="Caption")
        + table(("Season", "Failures", "Cause"), ("Winter", "6", "Damp in the cellar"), ("Spring", "2", "Broken wire"),
                ("Summer", "0", "–"), ("Autumn", "3", p("Damp in the cellar;") + p("once a seagull")), widths=(2500, 1500, 5000))
        + p("No other light on the coast fails so often.", note(1, "endnote"))
        + p(picture(), more="<w:keepNext/>")
        + p("Figure ", field("SEQ Figure", "1"), ": The lamp, seen from the sea", style="Caption")
        + heading("_Toc4")
        + item("Dry the cellar before next winter.", numbered=True)
        + item("Replace the wires, first of all", BREAK, "those on the stairs.", numbered=True)
        + item("Keep a second lamp ready.", numbered=True)
        + section(HEADER + FOOTER)
    )  # fmt: skip
    write(
        "report",
        body,
        {
            "header1": header(p("Harbour Trust", TAB, TAB, field("STYLEREF Title", "The light on North Island"))),
            "footer1": footer(PAGES),
            "footnotes": notes("footnote", "There were five failures in 2022.", "Its error is less than 2 %."),
            "endnotes": notes("endnote", "The lights of the neighbouring islands are newer."),
        },
    )


def manual() -> None:
    body = (
        p("Lamp Control 3.1: user manual", style="Title")
        + p("Before you begin", style="Heading1")
        + p("Read the ", link("#safety", "safety notes"), " first. The newest version of this manual is at ", link("rSite", "example.org/lamp"), ".")
        + p(bookmark("safety", r("Safety notes")), style="Heading2")
        + table((p(r("Warning", BOLD)),), (p("The glass gets ", r("very", ITALIC), " hot. ", r("Do not touch it.", BOLD)),), widths=(9000,))
        + p("First steps", style="Heading1")
        + item("Switch the power on.", numbered=True)
        + item("Press ", r("Start", BOLD), " and wait until the green light is on.", numbered=True)
        + item("If it stays red, try this:", numbered=True)
        + item("Check the fuse.", level=1) + item("Check the plug (", r("rear side", ITALIC), ").", level=1)
        + item("Choose ", r("Settings", BOLD), " \u2192 ", r("Light", BOLD), " \u2192 ", r("Brightness", BOLD), ".", numbered=True)
        + p("Commands", style="Heading1")
        + p("Type ", r("lamp --on", CODE), " to light the lamp and ", r("lamp --off", CODE), " to put it out. A whole night looks like this:")
        + p("lamp --on", BREAK, "sleep 8h", BREAK, "lamp --off", style="Code")
        + p("The file ", r("lamp.ini", CODE), " holds your settings. See also ", field('HYPERLINK "https://example.org/faq"', r("questions and answers", LINK)), ".")
        + p(r("A note on e"), "<w:r><w:noBreakHyphen/></w:r>", r("mail: "), "the lamp writes to you only if something is wrong.")
        + p("Keys", style="Heading1")
        + table(("Key", "What it does"), (p(r("Ctrl", CODE), "+", r("L", CODE)), "Lights the lamp"), (p(r("Esc", CODE)), "Stops whatever is going on"), widths=(3000, 6000))
        + p('<w:r><w:sym w:font="Wingdings" w:char="F0FC"/></w:r>', " Tested with all lamps of the series 300.")
        + p(r("Technical data", '<w:caps/><w:spacing w:val="20"/>'), more='<w:outlineLvl w:val="0"/>')
        + p("Power:", TAB, "60 W", BREAK, "Weight:", TAB, "4.5 kg", BREAK, "Colour:", TAB, "white or black")
        + section(FOOTER)
    )  # fmt: skip
    write("manual", body, {"footer1": footer(PAGES)}, {"rSite": "https://example.org/lamp"})


def newsletter() -> None:
    boxed = p(r("Did you know?", BOLD)) + p("The lamp can be seen from ", r("eighteen", ITALIC), " miles away.")
    body = (
        p("The Island Post", style="Title", more='<w:jc w:val="center"/>')
        + p("No. 42", TAB, "Spring", TAB, "free", more=f'<w:pBdr><w:bottom w:val="single"/></w:pBdr>{section(HEADER)}')
        + p("A light comes home", style="Heading1")
        + p(r("T", '<w:sz w:val="117"/>'), more='<w:framePr w:dropCap="drop" w:lines="3" w:wrap="around"/>')
        + p("he whole village was on the quay when the boat came in. On board was the new lamp, and in front of it sat the keeper, who did not let it out of his eyes.", box(boxed))
        + p("\u201cI have waited for this for twenty years,\u201d he said, and wiped the rain from his face. ", picture(), "Then everybody carried a piece of it up the hill.")
        + p("Photo: A. Finch", style="Caption")
        + p("Recipes", style="Heading1")
        + p(r("Seaweed soup.", BOLD), " Boil the seaweed for ten minutes, add potatoes and cream, and serve it hot.")
        + p(r("Oat biscuits.", BOLD), " Mix oats, butter and sugar; bake until golden.")
        + "<w:p><w:r><w:br w:type='column'/></w:r></w:p>"
        + p("Dates", style="Heading1")
        + table(("When", "What"), ("3 April", "Choir in the church"), ("12 April", p("Market")
                + table(("Stall", "Who"), ("Cheese", "Family Reid"), widths=(1200, 1600)) + p("rain or shine")), widths=(1500, 3000))
        + p("Small ads", style="Heading1")
        + p("For sale: ", r("boat", BOLD), ", nearly dry.   Ask at the inn.")
        + p("Lost: one grey cat. She answers to \u201cAdmiral\u201d.")
        + p(r("Editor: ", ITALIC), r("Ann Finch", ITALIC + '<w:lang w:val="en-US"/>'), r(" · printed on the island", ITALIC))
        + section(columns=2)
    )  # fmt: skip
    head = header(p(r("News for everybody who can read", ITALIC), more='<w:jc w:val="right"/>'))
    write("newsletter", body, {"header1": head})


def changed(kind: str, text: str, number: int) -> str:
    held = r(text) if kind != "del" else f'<w:r><w:delText xml:space="preserve">{text}</w:delText></w:r>'
    return f'<w:{kind} w:id="{number}" {CHANGE}>{held}</w:{kind}>'


def contract() -> None:
    client = field("MERGEFIELD Client", "«Client»")
    remark = '<w:commentRangeEnd w:id="0"/><w:r><w:commentReference w:id="0"/></w:r>'
    body = (
        p("Contract for the care of a lighthouse", style="Title")
        + p("between the Harbour Trust (", r("the Owner", BOLD), ") and ", client, " (", r("the Keeper", BOLD), ")")
        + p("Duties", style="Heading1", more='<w:numPr><w:ilvl w:val="0"/><w:numId w:val="2"/></w:numPr>')
        + item("The Keeper lights the lamp at sunset and puts it out at ", changed("del", "dawn", 11), changed("ins", "sunrise", 12), ".", level=1, numbered=True)
        + item("He ", changed("ins", "or she ", 13), "keeps a diary, which the Owner may read at any time.", level=1, numbered=True)
        + item('<w:commentRangeStart w:id="0"/>', "In fog the horn is sounded every two minutes", remark, ".", level=1, numbered=True)
        + p("Payment", style="Heading1", more='<w:numPr><w:ilvl w:val="0"/><w:numId w:val="2"/></w:numPr>')
        + item(bookmark("_Pay", r("The Owner pays the Keeper ")), changed("del", "900", 14), changed("ins", "950", 15), " pounds a month, on the first day.", level=1, numbered=True)
        + item("What is said in clause ", field("REF _Pay \\r \\h", "2.1"), " holds for holidays, too.", level=1, numbered=True)
        + f'<w:p><w:pPr><w:rPr><w:ins w:id="16" {CHANGE}/></w:rPr></w:pPr>{changed("ins", "Coal and oil are free of charge.", 17)}</w:p>'
        + f'<w:p><w:pPr><w:rPr><w:del w:id="18" {CHANGE}/></w:rPr></w:pPr>{changed("del", "The Keeper buys his own boots.", 19)}</w:p>'
        + p("End of the contract", style="Heading1", more='<w:numPr><w:ilvl w:val="0"/><w:numId w:val="2"/></w:numPr>')
        + p("This contract ends after ", control("<w:dropDownList><w:listItem w:value='one year'/></w:dropDownList>", r("one year")),
            ", if neither side says ", r("in writing", '<w:u w:val="single"/>'), " that it should go on.")
        + p(control('<w14:checkbox><w14:checked w14:val="0"/></w14:checkbox>', r("\u2610")), " The Keeper has got the keys.")
        + p(control('<w14:checkbox><w14:checked w14:val="1"/></w14:checkbox>', r("\u2612")), " The Keeper has read the rules of the house.")
        + table(("For the Owner", "The Keeper"), (p("Name: ", field("AUTHOR", "M. Okafor")), p("Name: ", client)), ("Place, date:", "Place, date:"), widths=(4500, 4500))
        + section(HEADER + FOOTER)
    )  # fmt: skip
    comment = f'<w:comment w:id="0" w:initials="MO" {CHANGE}>{p("Was it not three minutes?")}</w:comment>'
    write(
        "contract",
        body,
        {
            "header1": header(
                p(
                    "Draft of ",
                    f'<w:fldSimple w:instr=" SAVEDATE ">{r("4 March 2024")}</w:fldSimple>',
                    " \u2013 confidential",
                )
            ),
            "footer1": footer(PAGES),
            "comments": f"<w:comments {NAMES}>{comment}</w:comments>",
        },
    )


if __name__ == "__main__":
    for make in (letter, report, manual, newsletter, contract):
        make()
