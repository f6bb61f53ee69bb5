// The swarm as a picture: a row a machine, a bar of the layers that it holds.

import { find, make } from "./elements.js";

const REFRESH_MILLISECONDS = 1000;
const FASTEST = 1e10; // bytes a second: nodes of one machine have no link that could be measured

export function watchSwarm(onChange) {
  let isAsking = false;
  const look = async () => {
    if (isAsking || document.hidden) return;
    isAsking = true;
    try {
      const answer = await fetch("/swarm");
      if (!answer.ok) throw new Error(String(answer.status));
      const told = await answer.json();
      draw(told);
      onChange(told);
    } catch {
      find("health").textContent = "the gateway does not answer";
      find("swarm-says").textContent = "The gateway does not answer.";
    }
    isAsking = false;
  };
  setInterval(look, REFRESH_MILLISECONDS);
  look();
}

function draw(told) {
  const served = told.models.filter((model) => model.is_complete).length;
  const nodes = `${told.nodes.length} ${told.nodes.length === 1 ? "machine" : "machines"}`;
  find("health").textContent = served ? nodes : `${nodes}, no whole model`;
  const answers = told.answers.length;
  find("swarm-says").textContent = `${nodes}, ${answers} ${answers === 1 ? "answer" : "answers"} under way`;
  find("models").replaceChildren(...told.models.map((model) => drawModel(model, told)));
  const moves = told.plans.flatMap((plan) => [
    ...plan.loading.map((one) => `${one.name} loads ${one.part}: ${one.reason}`),
    ...plan.moves.map((one) => `${one.name} moves to ${one.after}: ${one.reason}`),
  ]);
  find("moves").replaceChildren(...(moves.length ? moves : ["Nothing."]).map((text) => make("li", {}, text)));
}

function drawModel(model, told) {
  const cells = model.layers + 2;
  const carried = new Set(told.answers.flatMap((answer) => (answer.route ?? []).map((hop) => hop.node)));
  const names = Object.fromEntries(told.nodes.map((node) => [node.node, node.name]));
  const rows = told.nodes
    .filter((node) => node.claims.some((claim) => claim.model === model.model))
    .map((node) => drawMachine(node, model, cells, carried.has(node.node), names));
  const parts = [make("h2", {}, model.name), ...rows];
  if (!model.is_complete) parts.push(make("p", { class: "fault" }, `Nobody serves ${model.missing}.`));
  return make("section", {}, ...parts);
}

function drawMachine(node, model, cells, answers, names) {
  const claims = node.claims.filter((claim) => claim.model === model.model);
  const bar = make("svg", { class: "bar", viewBox: `0 0 ${cells} 1`, preserveAspectRatio: "none", role: "img" });
  const what = claims.map((claim) => describeClaim(claim)).join("; ");
  bar.append(make("title", {}, what), make("rect", { class: "back", width: cells, height: 1 }));
  for (const claim of claims) {
    for (const [start, stop] of stretches(claim.part, cells)) {
      bar.append(make("rect", { class: claim.state, x: start, width: stop - start, height: 1 }));
    }
  }
  const memory = `${size(node.memory_free)} of ${size(node.memory_budget || node.memory_total)} free`;
  return make(
    "div",
    { class: answers ? "machine answers" : "machine" },
    make("div", { class: "name" }, node.name, make("span", {}, memory)),
    bar,
    make("div", { class: "what" }, what),
    ...describeLinks(node, names).map((link) => make("div", { class: "link" }, link)),
  );
}

function describeLinks(node, names) {
  const others = Object.keys(names).filter((other) => other !== node.node && other in node.rtts);
  return others.map((other) => {
    const rate = node.bytes_per_second[other];
    const parts = [`${(1000 * node.rtts[other]).toFixed(1)} ms there and back`, ...(rate && rate < FASTEST ? [`${size(rate)}/s`] : [])];
    return `⇄ ${names[other]}: ${parts.join(", ")}`;
  });
}

function describeClaim(claim) {
  const streamed = claim.streamed ? `, ${claim.streamed} layers from disk` : "";
  return `${claim.part} ${claim.variant} ${claim.state}${streamed}`;
}

// Cells of a part such as "b 0-4 7-9 e": begin is the first, end the last.
function stretches(part, cells) {
  if (part === "f") return [[0, cells]];
  return part.split(" ").flatMap((word) => {
    if (word === "b") return [[0, 1]];
    if (word === "e") return [[cells - 1, cells]];
    const [start, stop] = word.split("-").map(Number);
    return Number.isFinite(stop) ? [[start + 1, stop + 1]] : [];
  });
}

function size(bytes) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  while (bytes >= 1000 && unit < units.length - 1) {
    bytes /= 1000;
    unit += 1;
  }
  return `${bytes >= 100 || unit === 0 ? Math.round(bytes) : bytes.toFixed(1)} ${units[unit]}`;
}
