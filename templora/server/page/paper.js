// The sheet: a text area, and beneath it the same text in colours.

const CHANGES = [["less3", -1.5], ["less2", -0.7], ["less1", -0.25], ["more1", 0.25], ["more2", 0.7], ["more3", 1.5]];

export class Paper {
  constructor(area, mirror, manuscript) {
    this.area = area;
    this.mirror = mirror;
    this.colours = "who";
    this.show(manuscript);
  }

  // Shows a manuscript, all of it.
  show(manuscript) {
    this.manuscript = manuscript;
    if (this.area.value !== manuscript.text) this.area.value = manuscript.text;
    // What ends with a line end has one line more than is shown of it.
    this.mirror.textContent = manuscript.text + "\u200b";
    this.colour();
  }

  // Shows what was added at the end; whoever edits elsewhere is not disturbed.
  added(text) {
    const { selectionStart, selectionEnd, value } = this.area;
    const atEnd = selectionStart === value.length;
    this.area.value = this.manuscript.text;
    if (!atEnd) this.area.setSelectionRange(selectionStart, selectionEnd);
    const node = this.mirror.firstChild;
    // Whoever has the end before their eyes keeps it there.
    const seen = this.area.getBoundingClientRect().bottom <= innerHeight + 80;
    node.insertData(node.length - 1, text);
    if (seen || atEnd) scrollTo({ top: document.body.scrollHeight });
    this.colour();
  }

  colour() {
    if (!globalThis.CSS?.highlights) return;
    CSS.highlights.clear();
    const node = this.mirror.firstChild;
    const mark = (name, spans) => {
      const ranges = spans.filter((s) => s.end <= node.length && s.start < s.end).map((s) => {
        const range = new Range();
        range.setStart(node, s.start);
        range.setEnd(node, s.end);
        return range;
      });
      if (ranges.length) CSS.highlights.set(name, new Highlight(...ranges));
    };
    if (this.colours === "who") {
      for (const who of ["model", "edited"]) mark(who, this.manuscript.parts.filter((p) => p.who === who));
    } else if (this.colours === "change") {
      CHANGES.forEach(([name, from], i) => {
        const to = name.startsWith("less") ? (i ? CHANGES[i - 1][1] : -Infinity) : (CHANGES[i + 1]?.[1] ?? Infinity);
        const [low, high] = name.startsWith("less") ? [to, from] : [from, to];
        mark(name, this.manuscript.gains.filter((g) => (name.startsWith("less") ? g.gain > low && g.gain <= high : g.gain >= low && g.gain < high)));
      });
    }
  }

  // The character under the mouse.
  at(x, y) {
    const place = document.caretPositionFromPoint?.(x, y);
    return place && place.offsetNode === this.area ? place.offset : null;
  }

  // Where a character is on the page.
  boxOf(start, end) {
    const range = new Range();
    const node = this.mirror.firstChild;
    range.setStart(node, Math.min(start, node.length));
    range.setEnd(node, Math.min(end, node.length));
    return range.getBoundingClientRect();
  }
}
