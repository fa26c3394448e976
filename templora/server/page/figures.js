// What is learnt, as pictures and words: curves, strip, tree, words, cost.

const SVG = "http://www.w3.org/2000/svg";

function element(kind, attributes = {}, text) {
  const made = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// Perplexity by page, base and adapted. `scored`: {base, adapted, count}, nats in all.
export function drawCurves(svg, said, scored) {
  svg.replaceChildren();
  if (!scored.length) {
    svg.append(element("text", { x: 160, y: 78, "text-anchor": "middle" }, "a point for each page"));
    said.textContent = "";
    return;
  }
  const points = scored.map((s) => [Math.exp(s.base / s.count), Math.exp(s.adapted / s.count)]);
  const [top, low] = [Math.max(...points.flat()) * 1.05, Math.min(...points.flat()) * 0.95];
  const x = (i) => 34 + (276 * i) / Math.max(1, points.length - 1);
  const y = (value) => 134 - (120 * (value - low)) / (top - low || 1);
  for (const value of [low, (low + top) / 2, top]) {
    svg.append(element("text", { x: 30, y: y(value) + 3, "text-anchor": "end" }, value.toFixed(value < 100 ? 1 : 0)));
  }
  ["base", "adapted"].forEach((name, which) => {
    svg.append(element("polyline", { class: name, points: points.map((p, i) => `${x(i)},${y(p[which])}`).join(" ") }));
    if (points.length <= 40) points.forEach((p, i) => svg.append(element("circle", { class: `${name}-said`, cx: x(i), cy: y(p[which]), r: 2.5 })));
    svg.append(element("text", { class: `${name}-said`, x: which ? 310 : 40, y: 146, "text-anchor": which ? "end" : "start" },
      which ? "— with what it learnt" : "- - as it is"));
  });
  const total = scored.reduce((a, s) => ({ base: a.base + s.base, adapted: a.adapted + s.adapted, count: a.count + s.count }), { base: 0, adapted: 0, count: 0 });
  const [base, adapted] = [Math.exp(total.base / total.count), Math.exp(total.adapted / total.count)];
  const change = (100 * (adapted - base)) / base;
  said.textContent = `Perplexity ${base.toFixed(1)} as it is, ${adapted.toFixed(1)} with what it learnt (${change > 0 ? "+" : "−"}${Math.abs(change).toFixed(1)} %), over ${total.count.toLocaleString()} tokens. Lower is better.`;
}

// Entropy of each token of an answer, in nats, and the least that a page may have to be learnt.
export function drawRibbon(svg, said, entropies, least) {
  svg.replaceChildren();
  said.textContent = "";
  if (!entropies.length) return;
  const most = Math.max(...entropies, least ?? 0, 1);
  const [x, y] = [(i) => (320 * i) / Math.max(1, entropies.length - 1), (value) => 56 - (52 * value) / most];
  svg.append(element("path", { d: "M" + entropies.map((value, i) => `${x(i).toFixed(1)},${y(value).toFixed(1)}`).join("L") }));
  if (least) svg.append(element("line", { x1: 0, x2: 320, y1: y(least), y2: y(least) }));
  const mean = entropies.reduce((a, b) => a + b, 0) / entropies.length;
  said.textContent = `${mean.toFixed(2)} nats on average: high where anything may come, 0 where there is one word.` +
    (least ? ` A page below ${least.toFixed(2)} (the line) goes round in circles, and is not learnt.` : "");
}

// A tick for each page.
export function drawStrip(strip, said, ticks, chosen, choose) {
  strip.replaceChildren(...ticks.map((tick, i) => {
    const made = document.createElement("span");
    made.setAttribute("role", "option");
    made.id = `tick-${i}`;
    made.className = tick.committed ? "" : tick.reason && !/learn|next to nothing|nothing/.test(tick.reason) ? "not" : "passed";
    made.title = told(tick);
    made.setAttribute("aria-label", told(tick));
    made.setAttribute("aria-selected", String(i === chosen));
    made.addEventListener("click", () => choose(i));
    return made;
  }));
  if (chosen === null) strip.removeAttribute("aria-activedescendant");
  else strip.setAttribute("aria-activedescendant", `tick-${chosen}`);
  const learnt = ticks.filter((tick) => tick.committed).length;
  said.textContent = chosen !== null ? told(ticks[chosen])
    : ticks.length ? `${learnt} of ${ticks.length} pages learnt.` : "Nothing yet: a page is learnt when it is full.";
}

function told(tick) {
  const kept = tick.drift == null ? "" : ` It forgets ${tick.forgetting.toFixed(3)} nats a token of the text before, ${tick.drift.toFixed(3)} of the model's own.`;
  if (tick.committed) return `Page ${tick.chunk}, up to token ${tick.token}: learnt, version ${tick.version}.${kept}`;
  return `Page ${tick.chunk}, up to token ${tick.token}: not learnt${tick.reason ? ` (${tick.reason})` : ""}.`;
}

// Texts that were branched off one another.
export function drawTree(list, sessions, current, open) {
  const of = (parent) => sessions.filter((s) => (s.metadata.parent ?? null) === parent);
  const names = new Set(sessions.map((s) => s.id));
  const item = (session) => {
    const made = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = session.metadata.title || session.id;
    if (session.id === current) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => open(session.id));
    made.append(button);
    const below = of(session.id);
    if (below.length) {
      const inner = document.createElement("ul");
      inner.append(...below.map(item));
      made.append(inner);
    }
    return made;
  };
  let root = sessions.find((s) => s.id === current);
  while (root && root.metadata.parent && names.has(root.metadata.parent)) root = sessions.find((s) => s.id === root.metadata.parent);
  list.replaceChildren(...(root ? [item(root)] : []));
}

// Words whose probability rose most.
export function drawWords(where, text, gains) {
  const words = new Map();
  for (const { start, end, gain } of gains) {
    let [from, to] = [start, end];
    while (/\s/.test(text[from] ?? "") && from < to) from++;
    if (!/^\p{L}/u.test(text.slice(from, to))) continue;
    while (/\p{L}/u.test(text[from - 1] ?? "")) from--;
    while (/\p{L}/u.test(text[to] ?? "")) to++;
    const word = text.slice(from, to);
    words.set(word, (words.get(word) ?? 0) + gain);
  }
  const most = [...words].filter(([, gain]) => gain > 0.5).sort((a, b) => b[1] - a[1]).slice(0, 16);
  where.textContent = most.length ? most.map(([word]) => word).join(" · ") : "Nothing stands out yet.";
}

export function drawList(list, rows) {
  list.replaceChildren(...rows.flatMap(([name, value]) => {
    const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
    dt.textContent = name;
    dd.textContent = value;
    return [dt, dd];
  }));
}
