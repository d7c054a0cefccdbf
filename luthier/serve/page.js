// The chat page. Everything a model or a person wrote goes to the page by textContent only.
"use strict";

const $ = (id) => document.getElementById(id);
const model = { name: null, context: Infinity };
let turns = []; // what was said, as {user, assistant}
let forgotten = 0; // the first turns, which no longer fit the context
let tokensPerChar = 0; // measured at the last answer
let running = null; // AbortController of the answer being made

function element(tag, className, text = "") {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  return node;
}

function size(n) {
  const [limit, unit] = [[1e9, "B"], [1e6, "M"], [1e3, "k"]].find(([limit]) => n >= limit) ?? [1, ""];
  return Number((n / limit).toPrecision(3)) + unit;
}

async function describeModel() {
  try {
    const card = (await (await fetch("v1/models")).json()).data[0];
    model.name = card.id;
    model.context = card.max_context;
    document.title = `${card.id} · luthier`;
    $("model").textContent = card.id;
    const context = element("span", "more", ` · context of ${card.max_context} tokens`);
    $("facts").replaceChildren(`${size(card.parameters)} parameters`, context);
    $("temperature").value = card.defaults.temperature;
    $("max-tokens").value = card.defaults.max_tokens;
    $("max-tokens").max = card.max_context;
    showTemperature();
    for (const question of card.info.questions ?? []) {
      const button = element("button", "button", question);
      button.type = "button";
      button.onclick = () => ask(question);
      $("questions").append(button);
    }
  } catch {
    $("facts").textContent = "the server does not answer; reload the page when it runs again";
  }
}

function showTemperature() {
  $("temperature-shown").textContent = Number($("temperature").value).toFixed(2);
}

function longestAnswer() {
  const asked = Number.parseInt($("max-tokens").value, 10);
  return asked >= 1 ? Math.min(asked, 1048576) : 1;
}

// A turn on the page; returns the paragraph that holds its text.
function show(who, text) {
  const turn = element("article", `turn ${who}`);
  const paragraph = element("p", "", text);
  turn.append(element("span", "who", who === "user" ? "You" : (model.name ?? "Model")), paragraph);
  $("log").append(turn);
  return paragraph;
}

function remark(paragraph, text, wrong = false) {
  const note = element("span", wrong ? "remark wrong" : "remark", text);
  if (wrong) note.setAttribute("role", "alert");
  paragraph.parentElement.append(note);
}

function atBottom() {
  return window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - 80;
}

function toBottom() {
  window.scrollTo({ top: document.documentElement.scrollHeight });
}

function messages(text) {
  const said = turns.slice(forgotten).flatMap((turn) => [
    { role: "user", content: turn.user },
    { role: "assistant", content: turn.assistant },
  ]);
  return [...said, { role: "user", content: text }];
}

function characters(list) {
  return list.reduce((sum, message) => sum + message.content.length, 0);
}

// Forget the oldest turns while the conversation leaves too little room for an answer, as far as can be told beforehand.
function makeRoom(text) {
  const room = model.context - Math.min(longestAnswer(), model.context / 2);
  while (forgotten < turns.length && characters(messages(text)) * tokensPerChar > room) forgotten += 1;
}

async function post(text, signal) {
  for (;;) {
    const response = await fetch("v1/chat/completions", {
      method: "POST",
      headers: { "content-type": "application/json" },
      signal,
      body: JSON.stringify({
        model: model.name,
        messages: messages(text),
        temperature: Number($("temperature").value),
        max_tokens: longestAnswer(),
        stream: true,
        stream_options: { include_usage: true },
      }),
    });
    if (response.ok) return response;
    const error = (await response.json().catch(() => null))?.error;
    if (error?.code === "context_length_exceeded" && forgotten < turns.length) {
      forgotten += 1;
      continue;
    }
    throw new Error(error?.message ?? `the server answered with status ${response.status}`);
  }
}

// The JSON values of a stream of server-sent events.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (held + value).split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

async function receive(response, paragraph, turn, sent) {
  let reason = null;
  for await (const event of events(response.body)) {
    if (event.error) throw new Error(event.error.message);
    const choice = event.choices[0];
    const follow = atBottom();
    if (choice?.delta.content) {
      turn.assistant += choice.delta.content;
      paragraph.textContent = turn.assistant;
    }
    reason = choice?.finish_reason ?? reason;
    if (event.usage) tokensPerChar = event.usage.total_tokens / Math.max(1, sent + turn.assistant.length);
    if (follow) toBottom();
  }
  if (reason === null) throw new Error("the connection was lost");
  if (reason === "length") remark(paragraph, "cut: the answer reached its longest length");
}

async function ask(text) {
  if (running) return;
  running = new AbortController();
  const mine = running;
  const turn = { user: text, assistant: "" };
  const before = forgotten;
  $("welcome").hidden = true;
  show("user", text);
  const paragraph = show("assistant", "");
  busy(true, paragraph);
  toBottom();
  try {
    makeRoom(text);
    const response = await post(text, mine.signal);
    if (forgotten > before) remark(paragraph, "the context is full: the oldest messages are no longer seen by the model");
    await receive(response, paragraph, turn, characters(messages(text)));
    turns.push(turn);
  } catch (error) {
    if (running !== mine) return; // a new chat has begun
    if (mine.signal.aborted) {
      remark(paragraph, "stopped");
      if (turn.assistant) turns.push(turn);
    } else {
      forgotten = before;
      remark(paragraph, error instanceof TypeError ? "the server does not answer" : error.message, true);
      if (!$("message").value) $("message").value = text;
    }
  }
  if (running === mine) {
    running = null;
    busy(false, paragraph);
  }
}

function busy(yes, paragraph) {
  paragraph.parentElement.classList.toggle("writing", yes);
  $("log").setAttribute("aria-busy", String(yes));
  $("send").hidden = yes;
  $("stop").hidden = !yes;
  fit();
}

function fit() {
  const field = $("message");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
  $("send").disabled = field.value.trim() === "";
}

function submit() {
  const text = $("message").value.trim();
  if (!text || running) return;
  $("message").value = "";
  ask(text);
}

function reset() {
  running?.abort();
  running = null;
  turns = [];
  forgotten = 0;
  $("log").replaceChildren();
  $("log").setAttribute("aria-busy", "false");
  $("send").hidden = false;
  $("stop").hidden = true;
  $("welcome").hidden = false;
  $("message").focus();
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
$("message").addEventListener("input", fit);
$("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    submit();
  }
});
$("stop").addEventListener("click", () => running?.abort());
$("reset").addEventListener("click", reset);
$("temperature").addEventListener("input", showTemperature);
document.addEventListener("click", (event) => {
  if (!$("settings").contains(event.target)) $("settings").open = false;
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") $("settings").open = false;
});
describeModel();
