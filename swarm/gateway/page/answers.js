// Asks the gateway, and hands on what comes of an answer.

export async function* ask(model, messages, settings, signal) {
  const body = { model, messages, ...settings, stream: true, route: true, timings: true, why: true };
  const answer = await fetch("/v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  if (!answer.ok) throw new Error(await explain(answer));
  for await (const line of linesOf(answer.body)) {
    if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
    const told = JSON.parse(line.slice(6));
    if (told.error) throw new Error(told.error.message);
    if (told.choices[0]) yield told.choices[0];
  }
}

async function explain(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return `the gateway answers ${answer.status}`;
  }
}

async function* linesOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  while (true) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const lines = held.split("\n");
    held = lines.pop();
    yield* lines;
  }
}

export async function listModels() {
  const answer = await fetch("/v1/models");
  return answer.ok ? (await answer.json()).data.map((model) => model.id) : [];
}
