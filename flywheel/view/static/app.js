"use strict";
// The window's pages. Addresses: #/ #/curves #/levels #/groups?… #/group/ID #/attempt/ID

const main = document.getElementById("main");
const embedded = document.getElementById("run-data");
const inside = embedded ? JSON.parse(embedded.textContent) : null; // an exported page has its data with it
let overview = null;
let colouring = "logprob";
let selected = -1;

async function ask(path, parameters = {}) {
  if (inside) return fromInside(path, parameters);
  const given = Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const answer = await fetch(`/api/${path}${given.length ? `?${new URLSearchParams(given)}` : ""}`);
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

function fromInside(path, parameters) {
  const [kind, id] = path.split("/");
  if (kind === "overview" || kind === "curves") return inside[kind];
  if (kind === "group" || kind === "attempt") {
    const found = inside[`${kind}s`][id];
    if (!found) throw new Error("it is not in this exported page; the run's own window has it");
    return found;
  }
  const words = (parameters.words || "").toLowerCase().match(/[\p{L}\p{N}_]+/gu) || [];
  const fits = (group) => group.siblings.some((s) => ["outcome", "origin", "tier"].every((name) => !parameters[name] || s[name] === parameters[name]))
    && ["step", "env", "family"].every((name) => !parameters[name] || String(group[name]) === String(parameters[name]))
    && words.every((word) => inside.texts[group.id].includes(word));
  const all = Object.values(inside.groups).sort((a, b) => b.step - a.step).filter(fits);
  const page = +(parameters.page || 0);
  return { total: all.length, page, per_page: 40, groups: all.slice(40 * page, 40 * page + 40) };
}

// ---------------------------------------------------------------- pieces

function badge(outcome) { return el("span", { class: `badge ${outcome}` }, outcome.replace("_", " ")); }
function signed(value) { return value === null || value === undefined ? "–" : `${value > 0 ? "+" : ""}${number(value)}`; }
function link(address, ...children) { return el("a", { href: `#/${address}` }, children); }
function panel(title, ...children) { return el("section", { class: "panel" }, title ? el("h2", {}, title) : null, children); }
function facts(pairs) { return el("dl", { class: "facts" }, pairs.filter((p) => p[1] !== null && p[1] !== undefined).map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])); }
function tile(name, value, note) { return el("div", { class: "tile" }, el("div", { class: "tile-value" }, value), el("div", { class: "tile-name" }, name), note ? el("div", { class: "dim" }, note) : null); }

function advantageBar(value) {
  if (value === null || value === undefined) return el("span", { class: "dim" }, "did not train");
  const width = Math.min(50, Math.abs(value) * 22);
  const bar = svg("svg", { class: "advantage", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "track", x: 0, y: 0, width: 100, height: 10 }),
    svg("rect", { class: value >= 0 ? "fill solved" : "fill failed", x: value >= 0 ? 50 : 50 - width, y: 0, width, height: 10 }),
    svg("line", { class: "grid", x1: 50, x2: 50, y1: 0, y2: 10 }));
  return el("span", { class: "adv" }, bar, el("b", {}, signed(value)));
}

function checksOf(checks) {
  if (!checks.length) return el("p", { class: "dim" }, "no checks");
  return el("ul", { class: "checks" }, checks.map((check) => el("li", { class: check.passed ? "pass" : "fail" },
    el("span", { class: "mark", "aria-label": check.passed ? "passed" : "failed" }, check.passed ? "✓" : "✗"), el("b", {}, check.name), check.detail ? el("span", { class: "dim" }, ` ${check.detail}`) : null)));
}

function tokenRun(texts, logprobs, sampled) {
  const box = el("div", { class: `tokens by-${colouring}` });
  texts.forEach((text, at) => {
    const logprob = logprobs ? logprobs[at] : null;
    const depth = logprob === null ? "none" : Math.min(9, Math.max(0, Math.floor(-logprob * 2.2)));
    const title = sampled ? `${logprob === null ? "no logprob" : `logprob ${logprob.toFixed(3)} · p ${Math.exp(logprob).toFixed(3)}`} · trained (mask 1)` : "not sampled (mask 0)";
    box.append(el("span", { class: `tok ${sampled ? "m1" : "m0"} p${depth}`, title }, text.replace(/\n/g, "⏎\n")));
  });
  return box;
}

// ---------------------------------------------------------------- pages

const KEY_FIGURES = [["reward/mean"], ["groups/mixed", "groups/all_solved", "groups/none_solved", "groups/masked"], ["policy/entropy"], ["trainer/loss"],
  ["length/completion_mean"], ["time/rollout_s", "time/train_s", "time/sync_s", "time/journal_s"], ["idle/trainer", "idle/engine"]];

async function pageOverview() {
  const { series } = await ask("curves");
  const o = overview;
  const kinds = Object.entries(o.outcomes).map(([name, count]) => [name, count, name]);
  const heldoutNames = Object.keys(series).filter((name) => name.startsWith("heldout/"));
  const restarts = o.attempts.slice(1).map((a) => `attempt ${a.attempt} went on after step ${a.after_step}`);
  const table = o.heldout.length ? heldoutTable(o.heldout) : el("p", { class: "dim" }, "no evaluation yet");
  return [
    el("h1", {}, o.name),
    el("p", { class: "dim" }, Object.entries(o.recipe).map(([name, value]) => `${name.replace(/_/g, " ")} ${Array.isArray(value) ? value.join(", ") : value}`).join(" · ")),
    el("div", { class: "tiles" },
      tile("steps", o.recipe.steps ? `${o.steps} / ${o.recipe.steps}` : o.steps), tile("attempts", number(o.num_experiences), `${number(o.num_groups)} groups`),
      tile("tasks", number(o.num_tasks)), tile("tokens sampled", number(o.num_tokens)), tile("starts", o.attempts.length, restarts.join("; "))),
    o.superseded.length ? panel("Superseded", el("p", {}, `Steps that trained before a lost checkpoint and were taken again: ${o.superseded.join(", ")}`)) : null,
    panel("Outcomes of all attempts", shareBar(kinds)),
    panel("Held-out pass@1", table),
    el("div", { class: "charts" },
      heldoutNames.length ? lineChart("held-out pass@1", heldoutNames.map((name) => ({ name: name.slice(8), points: series[name] })), { unit: true }) : null,
      KEY_FIGURES.map((names) => names.filter((name) => series[name])).filter((names) => names.length).map((names) =>
        lineChart(names.length === 1 ? names[0] : names[0].split("/")[0], names.map((name) => ({ name: name.split("/")[1], points: series[name] })), { unit: /^(reward|groups|idle)/.test(names[0]) }))),
  ];
}

function heldoutTable(evaluations) {
  const [first, last] = [evaluations[0], evaluations[evaluations.length - 1]];
  const cell = (e) => (e ? `${e.mean.toFixed(3)} [${e.low.toFixed(3)}, ${e.high.toFixed(3)}]` : "–");
  return el("table", {}, el("thead", {}, el("tr", {}, ["", "tasks", `after step ${first.step}`, first === last ? null : `after step ${last.step}`].filter((t) => t !== null).map((t) => el("th", {}, t)))),
    el("tbody", {}, Object.keys(first.estimates).map((name) => el("tr", { class: name.includes("/") ? "sub" : "" },
      el("td", {}, name), el("td", {}, first.estimates[name].num_tasks), el("td", {}, cell(first.estimates[name])), first === last ? null : el("td", {}, cell(last.estimates[name]))))));
}

async function pageCurves() {
  const { series } = await ask("curves");
  const sections = {};
  for (const name of Object.keys(series)) (sections[name.split("/")[0]] ||= []).push(name);
  const box = el("div", {});
  function draw(words) {
    box.replaceChildren(...Object.entries(sections).map(([section, names]) => {
      const shown = names.filter((name) => name.includes(words));
      return shown.length ? panel(section, el("div", { class: "charts" }, shown.map((name) => lineChart(name, [{ name, points: series[name] }])))) : "";
    }));
  }
  draw("");
  return [el("h1", {}, "Curves"), el("input", { type: "search", placeholder: "filter figures", "aria-label": "filter figures", oninput: (e) => draw(e.target.value) }), box];
}

const BELIEF = [["predicted", "The curriculum's P(solved)"], ["uncertainty", "How unsure it is of that"], ["share", "Share of a step's tasks"]];

async function pageLevels() {
  const { series } = await ask("curves");
  const found = Object.keys(series).map((name) => [name, name.match(/^solved\/(.+)\/level_(\d+)$/)]).filter((pair) => pair[1]);
  const families = {};
  for (const [name, match] of found) (families[match[1]] ||= []).push({ name: `level ${match[2]}`, points: series[name] });
  const belief = {};
  const others = [];
  for (const name of Object.keys(series).filter((n) => n.startsWith("curriculum/"))) {
    const match = name.match(/^curriculum\/(predicted|uncertainty|share)\/(.+)$/);
    if (match) (belief[match[1]] ||= []).push({ name: match[2], points: series[name] });
    else others.push(lineChart(name, [{ name, points: series[name] }]));
  }
  return [el("h1", {}, "Difficulty over time"),
    el("p", { class: "dim" }, "Share of judged attempts that solved their task, by family and difficulty level: dark is none, bright is all. What lies between teaches most."),
    Object.keys(families).length ? Object.entries(families).map(([family, rows]) => panel(family, heatMap(rows.sort((a, b) => (a.name < b.name ? 1 : -1)), `${family}: solve rate by level and step`)))
      : el("p", {}, "No family of this run has difficulty knobs."),
    BELIEF.filter(([kind]) => belief[kind]).map(([kind, text]) => panel(text, heatMap(belief[kind], `${text}, by level and step`))),
    others.length ? el("div", { class: "charts" }, others) : null];
}

async function pageGroups(asked) {
  const found = await ask("groups", asked);
  const go = (changes) => { location.hash = `#/groups?${new URLSearchParams(Object.entries({ ...asked, page: "", ...changes }).filter(([, v]) => v !== ""))}`; };
  const choose = (name, values) => el("label", {}, el("span", { class: "dim" }, name), el("select", { onchange: (e) => go({ [name]: e.target.value }) },
    el("option", { value: "" }, "all"), values.map((value) => el("option", { value, selected: asked[name] === value }, value.replace("_", " ")))));
  const pages = Math.ceil(found.total / found.per_page);
  const turn = (to, text) => el("button", { disabled: to < 0 || to >= pages, onclick: () => go({ page: String(to) }) }, text);
  return [el("h1", {}, "Groups"),
    el("form", { class: "filters", onsubmit: (e) => { e.preventDefault(); go({ words: new FormData(e.target).get("words") }); } },
      el("label", {}, el("span", { class: "dim" }, "text"), el("input", { type: "search", name: "words", id: "search", value: asked.words || "", placeholder: "words in prompts, turns, evidence ( / )" })),
      el("label", {}, el("span", { class: "dim" }, "step"), el("input", { type: "number", min: 0, value: asked.step || "", onchange: (e) => go({ step: e.target.value }) })),
      ["outcome", "env", "family", "origin", "tier"].map((name) => choose(name, overview.choices[name])),
      el("button", { type: "submit" }, "find")),
    el("p", { class: "dim" }, `${number(found.total)} groups`, overview.indexed < 1 ? ` · text index ${(100 * overview.indexed).toFixed(0)} %` : "", inside ? " in this exported page" : ""),
    el("ol", { class: "rows" }, found.groups.map((group) => el("li", {}, el("a", { href: `#/group/${group.id}`, "data-nav": true },
      el("span", { class: "row-step" }, `step ${group.step}`),
      el("span", { class: "row-kind" }, `${group.env} / ${group.family}`),
      el("span", { class: "row-text" }, group.prompt.replace(/\s+/g, " ")),
      el("span", { class: "squares" }, group.siblings.map((s) => el("i", { class: `square ${s.outcome}`, title: `${s.outcome}, reward ${number(s.reward)}, advantage ${signed(s.advantage)}` }))))))),
    pages > 1 ? el("nav", { class: "pages", "aria-label": "pages" }, turn(found.page - 1, "← newer"), el("span", {}, `${found.page + 1} of ${pages}`), turn(found.page + 1, "older →")) : null];
}

async function pageGroup(asked, id) {
  const group = await ask(`group/${id}`);
  return [el("h1", {}, `Group of step ${group.step}`), el("p", { class: "crumbs" }, link("groups", "groups"), " › ", link(`groups?step=${group.step}`, `step ${group.step}`)),
    panel("Task", el("pre", { class: "text" }, group.task.prompt),
      facts([["environment", `${group.env} / ${group.family}`], ["task", el("code", {}, group.task.id)], ["made by", group.task.operator], ["from task", group.task.parent_id],
        ["knobs", Object.entries(group.task.params).map(([k, v]) => `${k} ${v}`).join(", ") || null], ["split", group.task.split], ["seed", group.task.seed]])),
    el("div", { class: "siblings" }, group.siblings.map((s, i) => el("a", { class: `sibling edge-${s.outcome}`, href: `#/attempt/${s.id}`, "data-nav": true },
      el("div", { class: "sibling-top" }, el("span", { class: "dim" }, `#${i + 1}`), badge(s.outcome)),
      el("div", {}, el("span", { class: "dim" }, "advantage "), advantageBar(s.advantage)),
      el("div", { class: "dim" }, [`reward ${number(s.reward)}`, `${s.num_tokens} tokens`, s.num_turns && `${s.num_turns} turns`, s.tier, s.stop_reason].filter(Boolean).join(" · ")),
      el("pre", { class: "text small" }, s.problem ?? s.answer ?? s.last),
      s.checks ? checksOf(s.checks) : null, s.evidence ? el("pre", { class: "text small dim" }, s.evidence) : null)))];
}

async function pageAttempt(asked, id) {
  const a = await ask(`attempt/${id}`);
  const at = a.siblings.indexOf(id);
  const sibling = (to, text) => (to >= 0 && to < a.siblings.length ? el("a", { class: "button", href: `#/attempt/${a.siblings[to]}`, "data-go": text }, text) : null);
  const turns = el("div", {});
  function draw() {
    turns.replaceChildren(...a.turns.map((turn, i) => el("section", { class: "turn" },
      el("h3", {}, `Turn ${i + 1}`, el("span", { class: "dim" }, ` policy ${turn.policy_version} · ${turn.tokens.length} tokens`)),
      el("details", { open: colouring === "mask" }, el("summary", {}, `${turn.prompt_tokens.length} tokens before it (mask 0)`), tokenRun(turn.prompt_tokens, null, false)),
      tokenRun(turn.tokens, turn.logprobs, true),
      turn.tool_calls.map((call) => el("div", { class: "call" }, el("b", {}, `⚙ ${call.name}`), Object.entries(call.arguments).map(([name, value]) =>
        el("div", {}, el("span", { class: "dim" }, name), el("pre", { class: "text small" }, typeof value === "string" ? value : JSON.stringify(value))))),
      ),
      turn.observation !== null ? el("div", { class: "observation" }, el("span", { class: "dim" }, "environment"), el("pre", { class: "text small" }, turn.observation)) : null)));
  }
  const pick = el("div", { class: "switch", role: "radiogroup", "aria-label": "colour tokens by" }, ["logprob", "mask", "plain"].map((name) =>
    el("button", { role: "radio", "aria-checked": String(colouring === name), class: colouring === name ? "on" : "", onclick: () => { colouring = name; show(); } }, name)));
  draw();
  return [el("h1", {}, `Attempt ${at + 1} of ${a.siblings.length} `, badge(a.outcome)),
    el("p", { class: "crumbs" }, link("groups", "groups"), " › ", link(`groups?step=${a.step}`, `step ${a.step}`), " › ", link(`group/${a.group_id}`, "group"), " ", sibling(at - 1, "← previous"), " ", sibling(at + 1, "next →")),
    el("div", { class: "columns" },
      el("div", {}, panel("Task", el("pre", { class: "text" }, a.prompt)),
        panel(null, el("div", { class: "head" }, el("h2", {}, "Turns"), pick,
          el("span", { class: "scale", "aria-hidden": "true" }, "p = 1", Array.from({ length: 10 }, (_, i) => el("i", { class: `tok by p${i}` })), "p < 0.02")), turns)),
      el("aside", {},
        panel("Verdict", facts([["reward", number(a.reward)], ["verifier", `${a.verifier} ${a.verifier_version}`], ["stopped by", a.stop_reason], ["took", `${number(a.duration_s)} s`], ["tier", a.tier]]),
          checksOf(a.checks), a.evidence ? el("pre", { class: "text small" }, a.evidence) : null),
        panel("Answer", a.answer === null ? el("p", { class: "dim" }, "none") : el("pre", { class: "text small" }, a.answer)),
        panel("Lineage", facts([
          ["origin", a.origin.replace("_", " ")],
          ["route", a.route.destination ? `${[a.route.destination, ...a.route.also].join(", ")}: ${a.route.reason}` : "none recorded"],
          ["trained in", a.uses.length ? a.uses.map((u) => el("div", {}, link(`groups?step=${u.step}`, `step ${u.step}`), ` as ${u.kind}, ${u.kind === "grpo" ? `advantage ${signed(u.advantage)}` : `weight ${number(u.weight)}`}`)) : "no step"],
          ["made policy", a.made_versions.join(", ") || null],
          ["relabelled into", a.became.length ? a.became.map((other) => el("div", {}, link(`attempt/${other}`, other))) : null],
          ["relabelled from", a.came_from.length ? a.came_from.map((other) => el("div", {}, link(`attempt/${other}`, other))) : null],
          ["task", el("code", {}, a.task_id)], ["parent tasks", a.parent_tasks.join(" ← ") || null], ["tasks made from it", a.child_tasks.join(", ") || null], ["attempt", el("code", {}, a.id)]]))))];
}

// ---------------------------------------------------------------- the frame

const PAGES = { "": pageOverview, curves: pageCurves, levels: pageLevels, groups: pageGroups, group: pageGroup, attempt: pageAttempt };
const TABS = [["", "Overview", "o"], ["curves", "Curves", "c"], ["levels", "Curriculum", "l"], ["groups", "Groups", "g"]];

function drawTop(page) {
  document.getElementById("top").replaceChildren(
    el("a", { class: "brand", href: "#/" }, el("i", { class: "wheel", "aria-hidden": "true" }), "flywheel"),
    el("nav", { "aria-label": "pages" }, TABS.map(([address, name, key]) => el("a", { href: `#/${address}`, class: page === address || (address === "groups" && ["group", "attempt"].includes(page)) ? "on" : "", title: `key ${key}` }, name))),
    el("span", { class: "run" }, overview ? overview.name : ""),
    el("button", { class: "help-button", title: "keys", onclick: help }, "?"));
}

function help() {
  const keys = [["o c l g", "overview, curves, curriculum, groups"], ["j k", "next, previous in a list"], ["Enter", "open"], ["Esc", "back"], ["n p", "next, previous sibling"], ["/", "search"], ["m", "colour by mask or logprob"], ["?", "this"]];
  const dialog = el("dialog", { class: "help" }, el("h2", {}, "Keys"), facts(keys.map(([key, what]) => [key, what])), el("button", { onclick: () => dialog.close() }, "close"));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

let shown = 0;
async function show() {
  const turn = ++shown;
  const [path, parameters] = location.hash.replace(/^#\/?/, "").split("?");
  const [page, id] = path.split("/").map(decodeURIComponent);
  const asked = Object.fromEntries(new URLSearchParams(parameters || ""));
  try {
    overview = await ask("overview");
    const made = PAGES[page] ? await PAGES[page](asked, id) : [el("h1", {}, "No such page")];
    if (turn !== shown) return;
    main.replaceChildren(...made.flat(2).filter((node) => node));
  } catch (error) {
    if (turn !== shown) return;
    main.replaceChildren(el("h1", {}, "That did not work"), el("p", {}, error.message));
  }
  drawTop(page);
  selected = -1;
  document.title = `${main.querySelector("h1").textContent} · flywheel`;
  main.dataset.page = page || "overview"; // a test waits for it
  main.dataset.shown = location.hash;
}

function select(move) {
  const items = [...main.querySelectorAll("[data-nav]")];
  if (!items.length) return;
  selected = Math.min(items.length - 1, Math.max(0, selected + move));
  items[selected].focus();
  items[selected].scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) { if (event.key === "Escape") event.target.blur(); return; }
  if (document.querySelector("dialog[open]")) return;
  const tab = TABS.find((t) => t[2] === event.key);
  const near = { n: "next →", p: "← previous" }[event.key];
  if (tab) location.hash = `#/${tab[0]}`;
  else if (event.key === "j" || event.key === "k") select(event.key === "j" ? 1 : -1);
  else if (near) { const go = [...main.querySelectorAll("[data-go]")].find((a) => a.dataset.go === near); if (go) go.click(); }
  else if (event.key === "/") { event.preventDefault(); const box = document.getElementById("search"); if (box) box.focus(); else location.hash = "#/groups"; }
  else if (event.key === "Escape") history.back();
  else if (event.key === "m" && main.dataset.page === "attempt") { colouring = colouring === "mask" ? "logprob" : "mask"; show(); }
  else if (event.key === "?") help();
});
window.addEventListener("hashchange", () => { window.scrollTo(0, 0); show(); });
show();
