// Conversations, kept in this browser alone.

const KEY = "swarm-talks";
const MOST = 50;

export class Talks {
  constructor() {
    this.all = read();
    this.current = this.all[0] ?? this.add();
  }

  add() {
    const talk = { id: crypto.randomUUID?.() ?? String(Math.random()), messages: [] };
    this.all.unshift(talk);
    this.all.length = Math.min(this.all.length, MOST);
    this.current = talk;
    return talk;
  }

  remove(talk) {
    this.all = this.all.filter((one) => one !== talk);
    if (this.current === talk) this.current = this.all[0] ?? this.add();
    this.keep();
  }

  keep() {
    try {
      localStorage.setItem(KEY, JSON.stringify(this.all.filter((talk) => talk.messages.length)));
    } catch {
      // no room, or nothing may be kept: they last as long as this page
    }
  }

  title(talk) {
    return talk.messages.find((message) => message.role === "user")?.content ?? "New conversation";
  }
}

function read() {
  try {
    const found = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(found) ? found.filter((talk) => Array.isArray(talk?.messages)) : [];
  } catch {
    return [];
  }
}
