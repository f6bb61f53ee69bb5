// Where an answer's tokens spent their time: a bar for each hop, which begins where the one before ends.

import { make } from "./elements.js";

const KINDS = ["queue", "turn", "compute", "wire"];

export function drawWhy(why) {
  const whole = why.seconds_a_token || 1;
  let before = 0;
  const rows = why.hops.map((hop) => {
    const bar = make("svg", { class: "bar", viewBox: "0 0 1000 1", preserveAspectRatio: "none", role: "img" });
    bar.append(make("title", {}, explain(hop)), make("rect", { class: "back", width: 1000, height: 1 }));
    for (const kind of KINDS) {
      const width = (1000 * hop[`${kind}_seconds`]) / whole;
      bar.append(make("rect", { class: kind, x: before, width, height: 1 }));
      before += width;
    }
    return make("li", {}, make("span", {}, `${hop.name} ${hop.part}`), bar, make("span", {}, explain(hop)));
  });
  const key = make("p", { class: "key" }, ...KINDS.map((kind) => make("span", { class: kind }, kind)));
  return make("details", { class: "why" }, make("summary", {}, why.said), make("ol", {}, ...rows), key, sum(why));
}

function explain(hop) {
  const parts = KINDS.map((kind) => [kind, hop[`${kind}_seconds`]]).filter(([, seconds]) => seconds >= 0.00005);
  return parts.map(([kind, seconds]) => `${kind} ${milliseconds(seconds)}`).join(", ") || "nothing to speak of";
}

function sum(why) {
  const hops = `The hops account for ${milliseconds(why.seconds_a_token)} of a token`;
  return make("p", {}, `${hops}; one came every ${milliseconds(why.measured_seconds_a_token)}.`);
}

function milliseconds(seconds) {
  return `${(1000 * seconds).toFixed(1)} ms`;
}
