// Markdown as answers use it, into elements. No HTML of the text is ever taken for HTML.

import { make } from "./elements.js";

const MARKS = /(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)|\*\*([^*\n]+)\*\*|\*([^*\s][^*\n]*)\*|\[([^\]\n]+)\]\((https?:\/\/[^\s)]+)\)/;

export function render(text) {
  const blocks = [];
  const lines = text.split("\n");
  while (lines.length) {
    const line = lines[0];
    const fence = line.match(/^ {0,3}(```+|~~~+)(.*)$/);
    if (fence) blocks.push(takeCode(lines, fence[1]));
    else if (!line.trim()) lines.shift();
    else if (/^#{1,6} /.test(line)) blocks.push(heading(lines.shift()));
    else if (/^ {0,3}([-*+]|\d+[.)]) /.test(line)) blocks.push(takeList(lines));
    else if (/^\|.*\|\s*$/.test(line) && /^\|[\s:|-]+\|\s*$/.test(lines[1] ?? "")) blocks.push(takeTable(lines));
    else if (/^> ?/.test(line)) blocks.push(takeQuote(lines));
    else blocks.push(takeParagraph(lines));
  }
  return blocks;
}

function takeCode(lines, fence) {
  lines.shift();
  const code = [];
  while (lines.length && !lines[0].trim().startsWith(fence)) code.push(lines.shift());
  lines.shift();
  const text = code.join("\n");
  const copy = make("button", { type: "button", class: "quiet", onclick: () => copyText(copy, text) }, "Copy");
  return make("pre", {}, make("code", {}, text), copy);
}

async function copyText(button, text) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Select it by hand";
  }
  setTimeout(() => (button.textContent = "Copy"), 1500);
}

function heading(line) {
  const marks = line.indexOf(" ");
  return make(`h${Math.min(6, marks + 2)}`, {}, ...inline(line.slice(marks + 1)));
}

function takeList(lines) {
  const isNumbered = /^ {0,3}\d/.test(lines[0]);
  const list = make(isNumbered ? "ol" : "ul");
  while (lines.length && /^\s*([-*+]|\d+[.)]) /.test(lines[0])) {
    const item = [lines.shift().replace(/^\s*([-*+]|\d+[.)]) /, "")];
    while (lines.length && /^\s+\S/.test(lines[0]) && !/^\s*([-*+]|\d+[.)]) /.test(lines[0])) item.push(lines.shift().trim());
    list.append(make("li", {}, ...inline(item.join(" "))));
  }
  return list;
}

function takeTable(lines) {
  const cells = (line) => line.trim().slice(1, -1).split("|");
  const row = (tag, line) => make("tr", {}, ...cells(line).map((cell) => make(tag, {}, ...inline(cell.trim()))));
  const table = make("table", {}, row("th", lines.shift()));
  lines.shift();
  while (lines.length && /^\|.*\|\s*$/.test(lines[0])) table.append(row("td", lines.shift()));
  return table;
}

function takeQuote(lines) {
  const quoted = [];
  while (lines.length && /^> ?/.test(lines[0])) quoted.push(lines.shift().replace(/^> ?/, ""));
  return make("blockquote", {}, ...render(quoted.join("\n")));
}

function takeParagraph(lines) {
  const said = [lines.shift()];
  while (lines.length && lines[0].trim() && !/^( {0,3}(```|~~~|[-*+] |\d+[.)] )|#{1,6} |> )/.test(lines[0])) said.push(lines.shift());
  const parts = said.flatMap((line, place) => (place ? [make("br"), ...inline(line)] : inline(line)));
  return make("p", {}, ...parts);
}

function inline(text) {
  const found = text.match(MARKS);
  if (!found) return [text];
  const [whole, , code, strong, emphasis, label, link] = found;
  const rest = inline(text.slice(found.index + whole.length));
  let marked;
  if (code !== undefined) marked = make("code", {}, code.trim());
  else if (strong !== undefined) marked = make("strong", {}, ...inline(strong));
  else if (emphasis !== undefined) marked = make("em", {}, ...inline(emphasis));
  else marked = make("a", { href: link, target: "_blank", rel: "noreferrer noopener" }, label);
  return [text.slice(0, found.index), marked, ...rest];
}
