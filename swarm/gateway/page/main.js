// The page: a conversation in the middle, others on the left, the swarm on the right.

import { ask, listModels } from "./answers.js";
import { find, make } from "./elements.js";
import { render } from "./markdown.js";
import { watchSwarm } from "./picture.js";
import { Talks } from "./talks.js";
import { drawWhy } from "./why.js";

const NUMBERS = ["temperature", "top_p", "top_k", "seed", "max_tokens"];
const talks = new Talks();
let running = null; // what stops the answer under way

function showTalks() {
  find("talk-list").replaceChildren(
    ...talks.all.map((talk) => {
      const open = make("button", { type: "button", onclick: () => choose(talk) }, talks.title(talk));
      const drop = make("button", { type: "button", "aria-label": "Forget it", onclick: () => forget(talk) }, "×");
      return make("li", { "aria-current": String(talk === talks.current) }, open, drop);
    }),
  );
}

function choose(talk) {
  running?.abort();
  talks.current = talk;
  toggle("menu", "talks", false);
  showAll();
}

function forget(talk) {
  if (talk === talks.current) running?.abort();
  talks.remove(talk);
  showAll();
}

function showAll() {
  showTalks();
  find("messages").replaceChildren(...talks.current.messages.map(showMessage));
  find("messages").scrollTop = find("messages").scrollHeight;
  showButtons();
}

function showMessage(message) {
  if (message.role === "user") return make("div", { class: "user" }, message.content);
  const element = make("div", { class: "answer" });
  fill(element, message);
  return element;
}

function fill(element, message) {
  const parts = render(message.content ?? "");
  if (message.thought) parts.unshift(make("details", {}, make("summary", {}, "Thoughts"), make("div", { class: "thought" }, message.thought)));
  if (message.fault) parts.push(make("p", { class: "fault", role: "alert" }, message.fault));
  if (message.about) parts.push(make("p", { class: "about" }, message.about));
  if (message.why) parts.push(drawWhy(message.why));
  element.replaceChildren(...parts);
}

function showButtons() {
  const last = talks.current.messages.at(-1);
  find("send").hidden = running !== null;
  find("stop").hidden = running === null;
  find("again").hidden = running !== null || last?.role !== "assistant";
}

async function answer() {
  const talk = talks.current;
  const said = talk.messages.map(({ role, content }) => ({ role, content }));
  const system = find("system").value.trim();
  if (system) said.unshift({ role: "system", content: system });
  const message = { role: "assistant", content: "" };
  talk.messages.push(message);
  const element = showMessage(message);
  element.classList.add("waiting");
  find("messages").append(element);
  const stopper = (running = new AbortController());
  showButtons();
  try {
    for await (const choice of ask(find("model").value, said, readSettings(), stopper.signal)) {
      message.content += choice.delta.content ?? "";
      if (choice.delta.reasoning_content) message.thought = (message.thought ?? "") + choice.delta.reasoning_content;
      if (choice.finish_reason) message.about = describe(choice);
      if (choice.why) message.why = choice.why;
      follow(element, message);
    }
  } catch (error) {
    if (error.name === "AbortError") message.about = "stopped";
    else message.fault = `No answer: ${error.message}`;
  }
  element.classList.remove("waiting");
  follow(element, message);
  if (running === stopper) running = null;
  talks.keep();
  showTalks();
  showButtons();
}

function follow(element, message) {
  const box = find("messages");
  const isAtEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  fill(element, message);
  if (isAtEnd) box.scrollTop = box.scrollHeight;
}

function describe({ finish_reason: reason, timings, route, attempts }) {
  const parts = [];
  if (timings) parts.push(`${timings.predicted_n} tokens, ${timings.predicted_per_second.toFixed(1)} a second`);
  if (timings?.cache_n) parts.push(`${timings.cache_n} tokens of the prompt were cached`);
  if (route) parts.push(`${route.length} ${route.length === 1 ? "hop" : "hops"}`);
  if (attempts > 1) parts.push(`changed chains ${attempts === 2 ? "once" : `${attempts - 1} times`}`);
  if (reason === "length") parts.push("cut at the most tokens");
  return parts.join(" · ");
}

function readSettings() {
  const told = NUMBERS.map((name) => [name, find(name).valueAsNumber]);
  return Object.fromEntries(told.filter(([, value]) => Number.isFinite(value)));
}

function send() {
  const question = find("question").value.trim();
  if (!question || running) return;
  find("question").value = "";
  const message = { role: "user", content: question };
  talks.current.messages.push(message);
  find("messages").append(showMessage(message));
  showTalks();
  answer();
}

function toggle(button, panel, isOpen = !find(panel).classList.contains("open")) {
  find(panel).classList.toggle("open", isOpen);
  find(button).setAttribute("aria-expanded", String(isOpen));
}

let known = "";
async function showModels(told) {
  const served = told.models.filter((model) => model.is_complete).map((model) => model.name).sort().join("\n");
  if (served === known) return;
  known = served;
  const chosen = find("model").value;
  const names = await listModels();
  find("model").replaceChildren(...names.map((name) => make("option", { value: name }, name)));
  if (names.includes(chosen)) find("model").value = chosen;
}

find("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
find("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
find("stop").addEventListener("click", () => running?.abort());
find("again").addEventListener("click", () => {
  talks.current.messages.pop();
  find("messages").lastElementChild.remove();
  answer();
});
find("new-talk").addEventListener("click", () => choose(talks.add()));
find("menu").addEventListener("click", () => toggle("menu", "talks"));
find("show-swarm").addEventListener("click", () => toggle("show-swarm", "swarm"));
showAll();
watchSwarm(showModels);
