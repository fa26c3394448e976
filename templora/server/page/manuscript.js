// The text, who wrote which part of it, what is known of its tokens, and what it was before. Knows no page.

const UNDONE = 200; // steps back

export class Manuscript {
  constructor(saved = {}) {
    this.text = saved.text ?? "";
    // Parts that are not the author's own: {start, end, who: "model" | "edited"}, in order.
    this.parts = saved.parts ?? [];
    // Tokens of the model's: {start, end, logprob, top: [[text, logprob], …]}, in order.
    this.tokens = saved.tokens ?? [];
    // What the adapter changed: {start, end, gain}, gain being nats by which a token became likelier.
    this.gains = [];
    this.before = [];
    this.after = [];
  }

  get state() {
    return { text: this.text, parts: this.parts, tokens: this.tokens };
  }

  // What `undo` comes back to.
  get #moment() {
    return { ...this.state, gains: this.gains };
  }

  // Keeps what there is now, for `undo`.
  keep() {
    this.before.push(this.#moment);
    if (this.before.length > UNDONE) this.before.shift();
    this.after = [];
  }

  undo() {
    return this.#go(this.before, this.after);
  }

  redo() {
    return this.#go(this.after, this.before);
  }

  #go(from, to) {
    if (!from.length) return false;
    to.push(this.#moment);
    Object.assign(this, from.pop());
    return true;
  }

  // The author has made it this text: whatever was changed within the model's words is edited.
  edit(text) {
    const old = this.text;
    let start = 0;
    while (start < old.length && start < text.length && old[start] === text[start]) start++;
    let tail = 0;
    while (tail < old.length - start && tail < text.length - start && old.at(-1 - tail) === text.at(-1 - tail)) tail++;
    const end = old.length - tail;
    const by = text.length - old.length;
    const moved = (list) =>
      list.filter((p) => p.end <= start || p.start >= end)
        .map((p) => (p.start >= end && !(p.end <= start) ? { ...p, start: p.start + by, end: p.end + by } : p));
    this.tokens = moved(this.tokens);
    this.gains = moved(this.gains);
    const parts = [];
    for (const p of this.parts) {
      if (p.end <= start || (p.start >= end && p.end > start)) {
        parts.push(p.start >= end ? { ...p, start: p.start + by, end: p.end + by } : p);
        continue;
      }
      if (p.start < start) parts.push({ ...p, end: start });
      const inside = p.start < start && p.end > end;
      if (inside && end + by > start) parts.push({ start, end: end + by, who: "edited" });
      if (p.end > end) parts.push({ ...p, start: end + by, end: p.end + by });
    }
    this.parts = parts;
    this.text = text;
  }

  // The model has written this.
  append(text, about) {
    const start = this.text.length;
    this.text += text;
    const last = this.parts.at(-1);
    if (last && last.who === "model" && last.end === start) last.end = this.text.length;
    else if (text) this.parts.push({ start, end: this.text.length, who: "model" });
    if (about && text) this.tokens.push({ start, end: this.text.length, ...about });
  }

  // Cuts the text off.
  cut(length) {
    this.edit(this.text.slice(0, length));
  }

  // The token at a character; with `changed`, of those that were read with the adapter and without.
  tokenAt(index, changed = false) {
    const list = changed && this.gains.length ? this.gains : this.tokens;
    return list.find((t) => t.start <= index && index < t.end);
  }
}
