// The page: what happens when.

import { Manuscript } from "./manuscript.js";
import { Paper } from "./paper.js";
import { drawCurves, drawList, drawRibbon, drawStrip, drawTree, drawWords } from "./figures.js";
import * as api from "./api.js";

const $ = (id) => document.getElementById(id);
const SAMPLING = [["temperature", 0.8, 0.05], ["min_p", 0.05, 0.01], ["top_p", 1, 0.05], ["top_k", 0, 1], ["repetition_penalty", 1.1, 0.05],
  ["frequency_penalty", 0, 0.1], ["presence_penalty", 0, 0.1], ["dry_multiplier", 0, 0.1], ["xtc_probability", 0, 0.1]];

let session = null; // its name; null: nothing is written yet
let sessions = [];
let manuscript = new Manuscript();
let ticks = [];
let scored = [];
let chosen = null;
let entropies = []; // of the last answer's tokens
let least = null; // of a page that may be learnt
let busy = null; // AbortController of what is under way
let lastStart = null; // where the last answer began
let lastToken = null; // and after how many tokens
let sent = ""; // the text as the session has it
let kept = 0; // when something was typed last: what is typed at once is undone at once
let choosing = null; // the token whose alternatives are shown

const paper = new Paper($("text"), $("mirror"), manuscript);

const say = (text) => ($("status").textContent = text);

async function trying(what) {
  try {
    return await what();
  } catch (error) {
    if (error.name !== "AbortError") say(error.message);
    return undefined;
  }
}

// Kept on this machine, so that nothing is lost when the page is left.

const saved = (name) => JSON.parse(localStorage.getItem(`templora.text.${name}`) ?? "null");

function autosave() {
  const state = manuscript.state;
  const put = (tokens) => localStorage.setItem(`templora.text.${session ?? ""}`, JSON.stringify({ ...state, tokens }));
  try {
    put(state.tokens.slice(-2000));
  } catch {
    try {
      put([]);
    } catch {
      say("This browser keeps no more of it; export it");
    }
  }
}

// Texts -------------------------------------------------------------------------------------------------------

async function list() {
  const found = (await api.get("/v1/sessions")).data;
  sessions = found.filter((s) => !s.temporary);
  $("texts").replaceChildren(...[["", "(a new text)"], ...sessions.map((s) => [s.id, s.metadata.title || s.id])]
    .map(([value, text]) => new Option(text, value, false, value === (session ?? ""))));
  drawTree($("tree"), sessions, session, open);
}

async function make(title) {
  const made = await api.post("/v1/sessions", { name: `text-${Date.now().toString(36)}`, metadata: { title } });
  localStorage.removeItem("templora.text.");
  session = made.id;
  localStorage.setItem("templora.last", session);
  await notes();
  await list();
}

async function open(name) {
  stop();
  session = name || null;
  localStorage.setItem("templora.last", session ?? "");
  const kept = saved(session ?? "");
  const plain = (said) => said.replace(/\r\n?/g, "\n"); // as text areas have it
  const text = session ? plain(await api.getText(`/v1/sessions/${session}/text`)) : "";
  const same = kept && (!session || plain(kept.text).startsWith(text.slice(0, 200)));
  manuscript = new Manuscript(same ? kept : { text });
  const about = session ? await api.get(`/v1/sessions/${session}`) : {};
  const [memory, note] = parted(about.notes ?? "");
  $("memory").value = memory;
  $("note").value = note;
  lastStart = lastToken = chosen = null;
  sent = text;
  entropies = [];
  $("beside").hidden = true;
  show();
  await figures();
  await list();
  $("text").focus();
}

function show() {
  paper.show(manuscript);
  buttons();
}

function buttons() {
  $("undo").disabled = !manuscript.before.length || !!busy;
  $("redo").disabled = !manuscript.after.length || !!busy;
  $("stop").disabled = !busy;
  $("retry").disabled = lastStart === null || !!busy;
  for (const id of ["go", "learn", "compare", "texts", "new", "import", "close", "fork", "rewind"]) $(id).disabled = !!busy;
  $("text").readOnly = !!busy;
  $("welcome").hidden = !!(session || manuscript.text);
}

async function figures() {
  if (!session) {
    ticks = [];
    scored = [];
  } else {
    const { data } = await api.get(`/v1/sessions/${session}/tree`);
    ticks = data.filter((m) => m.kind === "chunk");
    scored = data.filter((m) => m.kind === "scored").map((m) => ({ base: m.base_nll, adapted: m.mixed_nll ?? m.adapted_nll, count: m.targets }));
    const about = await api.get(`/v1/sessions/${session}`);
    const seconds = about.seconds;
    least = about.least_entropy;
    drawList($("cost"), [
      ["tokens", about.tokens.toLocaleString()], ["pages", about.chunks], ["adapter, version", about.version],
      ...Object.entries(seconds).map(([phase, value]) => [`${phase}, seconds`, value.toFixed(1)]),
    ]);
  }
  drawn();
}

function drawn() {
  drawCurves($("curves"), $("curves-said"), scored);
  drawStrip($("strip"), $("strip-said"), ticks, chosen, choose);
  drawRibbon($("ribbon"), $("ribbon-said"), entropies, least);
  $("moment").hidden = chosen === null;
}

// Writing -----------------------------------------------------------------------------------------------------

const sampling = () => Object.fromEntries(SAMPLING.map(([name]) => [name, Number($(`s-${name}`).value)]));

async function write(most) {
  if (busy) return;
  if (!manuscript.text.trim()) return say("Write a few words first: it goes on from there.");
  busy = new AbortController();
  manuscript.keep();
  kept = 0;
  lastStart = most ? manuscript.text.length : null;
  lastToken = null;
  entropies = [];
  buttons();
  say(most ? "writing…" : "reading…");
  await trying(async () => {
    if (!session) await make(manuscript.text.trim().split("\n")[0].slice(0, 40));
    const body = { prompt: manuscript.text, max_tokens: most, draft: true, ignore_eos: true, logprobs: 8, score: true, ...sampling() };
    for await (const said of api.events(`/v1/sessions/${session}/write`, body, busy.signal)) heard(said);
    say("");
  });
  if (lastToken !== null) sent = manuscript.text; // it has read it, and logs what it shows
  busy = null;
  autosave();
  buttons();
  await trying(figures);
  if (paper.colours === "change") await trying(changes);
}

function heard(said) {
  if (said.type === "Begun") {
    lastToken = said.at;
  } else if (said.type === "Token" || said.type === "Done") {
    const about = said.logprobs && { logprob: said.logprobs.logprob, top: said.logprobs.top.map(([, text, logprob]) => [text, logprob]) };
    manuscript.append(said.text, about);
    if (said.text) paper.added(said.text);
    if (said.entropy != null) entropies.push(said.entropy);
    drawRibbon($("ribbon"), $("ribbon-said"), entropies, least);
    if (said.type === "Done") say(said.reason === "stop" ? "It ended the text here." : "");
  } else if (said.type === "ChunkScored" && said.base_nll != null) {
    scored.push({ base: said.base_nll, adapted: said.mixed_nll ?? said.adapted_nll, count: said.targets });
    drawn();
  } else if (said.type === "ChunkLearned") {
    ticks.push({ chunk: said.index + 1, token: said.end, ...said });
    drawn();
  } else if (said.type === "Absorbed") {
    say(`read ${said.done.toLocaleString()} of ${said.total.toLocaleString()} tokens`);
  } else if (said.type === "Comment") {
    say(said.text);
  }
}

function stop() {
  busy?.abort();
}

async function retry() {
  if (lastStart === null || busy) return;
  manuscript.cut(lastStart);
  show();
  await write(Number($("tokens").value));
}

async function compare() {
  if (busy) return;
  if (manuscript.text !== sent) await write(0); // what is not read yet could not be gone on from
  await trying(async () => {
    if (!session) return;
    busy = new AbortController();
    buttons();
    $("beside").hidden = false;
    $("beside-text").textContent = "";
    const at = lastStart === null || lastToken === null ? {} : { at: { token: lastToken } };
    const body = { base: true, ...at, max_tokens: Number($("tokens").value), ignore_eos: true, ...sampling() };
    for await (const said of api.events(`/v1/sessions/${session}/preview`, body, busy.signal)) {
      if (said.type === "Token") $("beside-text").textContent += said.text;
    }
  });
  busy = null;
  buttons();
}

// What the adapter changed, word by word; asked for once at a time.
let asking = null;
const changes = () => (asking ??= changed().finally(() => (asking = null)));

async function changed() {
  if (!session || !manuscript.text || busy) return;
  say("reading it with and without the adapter…");
  const { tokens } = await api.post(`/v1/sessions/${session}/score`, { start: 0, tokens: true, top: 8 });
  let at = manuscript.text.length - tokens.reduce((sum, t) => sum + t.text.length, 0);
  const likely = (said) => said.top.map((t) => [t.text, t.logprob]);
  manuscript.gains = tokens.map((t) => ({
    start: at, end: (at += t.text.length), gain: t.adapted.logprob - t.base.logprob, top: likely(t.adapted), without: likely(t.base),
  })).filter((g) => g.start >= 0);
  paper.colour();
  drawWords($("words"), manuscript.text, manuscript.gains);
  say("");
}

// Back, and branches ------------------------------------------------------------------------------------------

function choose(i) {
  chosen = i === chosen ? null : i;
  drawn();
}

async function rewind() {
  const { chunk } = ticks[chosen];
  await api.post(`/v1/sessions/${session}/rewind`, { at: { chunk } });
  localStorage.removeItem(`templora.text.${session}`);
  await open(session);
  say(`Back to page ${chunk}, with what was learnt then.`);
}

async function fork() {
  const { chunk } = ticks[chosen];
  const title = `${sessions.find((s) => s.id === session)?.metadata.title ?? session}, from page ${chunk}`;
  const made = await api.post(`/v1/sessions/${session}/fork`, { name: `text-${Date.now().toString(36)}`, at: { chunk }, metadata: { title } });
  await open(made.id);
  say(`A branch from page ${chunk}.`);
}

async function close() {
  if (!session) return;
  if (!confirm("Delete this text, its log and its adapter? Export it first if you want to keep it.")) return;
  const told = await api.remove(`/v1/sessions/${session}`);
  localStorage.removeItem(`templora.text.${session}`);
  drawList($("receipt").querySelector("dl"), [
    ["the model is as it was", told.base_unchanged === undefined ? "it was not in use" : told.base_unchanged ? "yes" : "no"],
    ["the adapter is gone", told.discarded === undefined ? "with its file" : told.discarded ? "yes" : "no"],
    ["files deleted", told.files], ["bytes deleted", told.bytes.toLocaleString()],
  ]);
  await open(null);
  $("receipt").showModal();
}

// Memory ------------------------------------------------------------------------------------------------------

const BETWEEN = "\n\n[";
const together = () => {
  const [memory, note] = [$("memory").value.trim(), $("note").value.trim()];
  return memory + (note ? `${BETWEEN}${note}]` : "");
};
const parted = (notes) => {
  const at = notes.endsWith("]") ? notes.indexOf(BETWEEN) : -1;
  return at < 0 ? [notes, ""] : [notes.slice(0, at), notes.slice(at + BETWEEN.length, -1)];
};

async function notes() {
  if (session) await api.put(`/v1/sessions/${session}/notes`, { notes: together() });
}

// What else was likely ------------------------------------------------------------------------------------------

function hover(token) {
  choosing = token;
  const box = paper.boxOf(token.start, token.end);
  const list = $("hover");
  const column = (title, top) => {
    const made = document.createElement("div");
    if (title) made.append(Object.assign(document.createElement("p"), { className: "small", textContent: title }));
    made.append(...top.map(([text, logprob]) => {
      const button = Object.assign(document.createElement("button"), { type: "button" });
      const [word, share] = [document.createElement("span"), document.createElement("span")];
      word.textContent = text.replaceAll("\n", "↵") || "(end)";
      share.textContent = `${(100 * Math.exp(logprob)).toFixed(1)} %`;
      button.append(word, share);
      button.addEventListener("click", () => reroll(text));
      return button;
    }));
    return made;
  };
  list.replaceChildren(...(token.without
    ? [column("with what it learnt", token.top), column("as it is", token.without)] : [column("", token.top)]));
  list.hidden = false;
  list.style.left = `${Math.min(box.left, innerWidth - 200) + scrollX}px`;
  list.style.top = `${box.bottom + scrollY + 2}px`;
}

async function reroll(text) {
  const token = choosing;
  $("hover").hidden = true;
  manuscript.keep();
  manuscript.cut(token.start);
  manuscript.append(text);
  show();
  await write(Number($("tokens").value));
}

// Wires -------------------------------------------------------------------------------------------------------

const clicks = {
  go: () => write(Number($("tokens").value)), learn: () => write(0), stop, retry, compare, close, rewind, fork,
  undo: () => { if (manuscript.undo()) { lastStart = null; show(); autosave(); } },
  redo: () => { if (manuscript.redo()) { lastStart = null; show(); autosave(); } },
  new: () => open(null),
  own: () => { $("welcome").hidden = true; $("text").focus(); },
  show: async () => {
    manuscript.edit(await api.getText("sample.txt"));
    show();
    await write(0);
    say("It has learnt the story. Go on with it, then see what it writes without the adapter.");
  },
  import: () => $("file").click(),
  export: () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([manuscript.text], { type: "text/plain" }));
    link.download = `${session ?? "text"}.txt`;
    link.click();
    URL.revokeObjectURL(link.href);
  },
  "beside-close": () => ($("beside").hidden = true),
  theme: () => {
    const dark = document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    localStorage.setItem("templora.theme", (document.documentElement.dataset.theme = dark === "dark" ? "light" : "dark"));
  },
};
for (const [id, what] of Object.entries(clicks)) $(id).addEventListener("click", () => trying(async () => what()));

$("text").addEventListener("input", () => {
  if (performance.now() - kept > 1500) manuscript.keep();
  kept = performance.now();
  manuscript.edit($("text").value);
  lastStart = null;
  paper.show(manuscript);
  autosave();
  buttons();
  $("welcome").hidden = true;
});
$("file").addEventListener("change", async () => {
  const [file] = $("file").files;
  if (!file) return;
  await open(null);
  manuscript.edit((await file.text()).replaceAll("\r\n", "\n"));
  $("file").value = "";
  show();
  autosave();
});
$("texts").addEventListener("change", () => trying(() => open($("texts").value)));
$("colours").addEventListener("change", () => trying(async () => {
  paper.colours = $("colours").value;
  if (paper.colours === "change") await changes();
  paper.colour();
}));
let later;
for (const id of ["memory", "note"]) $(id).addEventListener("input", () => {
  clearTimeout(later);
  later = setTimeout(() => trying(async () => { await notes(); say("memory kept"); }), 800);
});
$("strip").addEventListener("keydown", (event) => {
  if (!ticks.length) return;
  const to = { ArrowRight: (chosen ?? -1) + 1, ArrowLeft: (chosen ?? ticks.length) - 1, Home: 0, End: ticks.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  chosen = Math.max(0, Math.min(ticks.length - 1, to));
  drawn();
});
let waiting;
$("text").addEventListener("mousemove", (event) => {
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    const at = busy ? null : paper.at(event.clientX, event.clientY);
    const token = at === null ? undefined : manuscript.tokenAt(at, paper.colours === "change");
    if (token?.top?.length) hover(token);
  }, 250);
});
document.addEventListener("pointerdown", (event) => {
  if (!$("hover").contains(event.target)) $("hover").hidden = true;
});
document.addEventListener("keydown", (event) => {
  const [control, key] = [event.ctrlKey || event.metaKey, event.key];
  if (control && key === "Enter") (event.shiftKey ? clicks.retry : clicks.go)();
  else if (key === "Escape") {
    $("hover").hidden = true;
    stop();
  } else if (control && key.toLowerCase() === "z" && document.activeElement === $("text")) (event.shiftKey ? clicks.redo : clicks.undo)();
  else if (event.altKey && key === "ArrowDown" && document.activeElement === $("text")) {
    const token = manuscript.tokenAt(Math.max(0, $("text").selectionStart - 1), paper.colours === "change");
    if (!token?.top?.length) return;
    hover(token);
    $("hover").querySelector("button")?.focus();
  } else return;
  event.preventDefault();
});

function begin() {
  const theme = localStorage.getItem("templora.theme");
  if (theme) document.documentElement.dataset.theme = theme;
  for (const [name, value, step] of SAMPLING) {
    const label = document.createElement("label");
    label.textContent = name.replaceAll("_", " ");
    label.htmlFor = `s-${name}`;
    const input = document.createElement("input");
    Object.assign(input, { id: `s-${name}`, type: "number", value, step, min: name.endsWith("penalty") && name !== "repetition_penalty" ? -2 : 0 });
    $("sampling").append(label, input);
  }
  trying(async () => {
    const last = localStorage.getItem("templora.last");
    await list();
    await open(sessions.some((s) => s.id === last) ? last : null);
  });
}

begin();
