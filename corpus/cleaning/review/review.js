// The page of `steel review`: shows a document at a time, sends verdicts.
// Texts come as HTML that the server has escaped; everything else is set as text.
"use strict";

const at = (id) => document.getElementById(id);
const FILTERS = ["kind", "operator", "family"];
let state = { documents: [], choices: {}, shares: {}, judged: 0 };
let current = -1;
let busy = false;

function listed() {
  return state.documents.filter((one) => FILTERS.every((f) => !at(f).value || one[f] === at(f).value));
}

function say(text) { at("message").textContent = text; }

function fillFilters() {
  for (const name of FILTERS) {
    const values = [...new Set(state.documents.map((one) => one[name]))].sort();
    at(name).replaceChildren(...["", ...values].map((value) => {
      const option = document.createElement("option");
      option.value = value;
      option.textContent = value || "all";
      return option;
    }));
  }
}

function drawShares(name) {
  const table = document.createElement("table");
  const row = (cells, tag) => {
    const line = table.insertRow();
    for (const cell of cells) {
      const made = document.createElement(tag);
      made.textContent = cell;
      line.append(made);
    }
    return line;
  };
  row([name, "", "bad / judged", "share", "95 %"], "th");
  for (const one of state.shares[name] || []) {
    const [low, high] = one.interval_95;
    const line = row([one.name, one.verdict.replace("_", " "), `${one.bad} / ${one.judged}`,
      `${one.percent} %`, `${low} – ${high} %`], "td");
    if (one.name === "all") line.className = "sum";
  }
  at(`by-${name}`).replaceChildren(table);
}

function drawState() {
  at("progress").max = Math.max(1, state.documents.length);
  at("progress").value = state.judged;
  at("count").textContent = `${state.judged} of ${state.documents.length} judged`;
  drawShares("operator");
  drawShares("family");
}

async function show(number) {
  const one = state.documents[number];
  if (!one) {
    current = -1;
    at("document").replaceChildren();
    at("choices").replaceChildren();
    say(state.documents.length ? "All that is chosen here was judged." : "The sample is empty.");
    return;
  }
  current = number;
  const answer = await fetch(`document/${number}`);
  if (current !== number) return;
  if (!answer.ok) return say(`The server answered ${answer.status}.`);
  at("document").innerHTML = await answer.text();
  say("");
  at("note").value = one.note;
  const buttons = Object.entries(state.choices[one.kind]).map(([verdict, label], index) => {
    const button = document.createElement("button");
    button.textContent = `${index + 1}  ${label}`;
    button.className = ["good", "bad", "unsure"][index];
    button.setAttribute("aria-pressed", String(one.verdict === verdict));
    button.addEventListener("click", () => judge(verdict));
    return button;
  });
  at("choices").replaceChildren(...buttons);
  window.scrollTo(0, 0);
}

function step(by, openOnly) {
  const rows = listed().filter((one) => !openOnly || !one.verdict || one.number === current);
  const place = rows.findIndex((one) => one.number === current);
  if (openOnly) {
    const open = rows.filter((one) => !one.verdict);
    const next = by > 0 ? open.find((one) => one.number > current) || open[0]
      : open.findLast((one) => one.number < current) || open[open.length - 1];
    return show(next ? next.number : -1);
  }
  const next = rows[Math.min(rows.length - 1, Math.max(0, place + by))];
  return show(next ? next.number : -1);
}

async function judge(verdict) {
  if (busy || current < 0) return;
  busy = true;
  try {
    const answer = await fetch("verdict", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ number: current, verdict, note: at("note").value }),
    });
    if (!answer.ok) return say(`Not recorded: the server answered ${answer.status}.`);
    state = await answer.json();
    drawState();
    at("note").blur();
    await step(1, at("open").checked);
  } catch (error) {
    say("Not recorded: the server does not answer. Start `steel review` again.");
  } finally {
    busy = false;
  }
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target === at("note")) {
    if (event.key === "Enter" || event.key === "Escape") at("note").blur();
    return;
  }
  if (event.target.tagName === "SELECT") return;
  const one = state.documents[current];
  const verdict = one && Object.keys(state.choices[one.kind])[Number(event.key) - 1];
  if (verdict) judge(verdict);
  else if (event.key === "ArrowRight" || event.key === "j") step(1, false);
  else if (event.key === "ArrowLeft" || event.key === "k") step(-1, false);
  else if (event.key === "n") { event.preventDefault(); at("note").focus(); }
});

async function start() {
  const answer = await fetch("state");
  state = await answer.json();
  fillFilters();
  drawState();
  for (const name of [...FILTERS, "open"]) {
    at(name).addEventListener("change", () => { current = -1; step(1, at("open").checked); });
  }
  await step(1, at("open").checked);
}

start();
