// A chat with rooms, presence and typing indicators. It runs in every element with `data-chat`.

import { live, states, write } from "./live.js";

const LINES = 200; // messages kept on the page
const TYPING_FOR = 3000; // ms that a typing indicator stays
const ASK_EVERY = 10_000; // ms between requests for the member list

for (const root of document.querySelectorAll("[data-chat]")) chat(root);

function chat(root) {
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const log = part("log");
  const typing = new Map(); // names of those who are typing, by id
  let room = root.dataset.chat;
  let name = sessionStorage.getItem("chat-name") ?? `guest ${Math.floor(Math.random() * 900) + 100}`;
  let me = null;
  let told = -Infinity; // when we last sent "typing"

  const stateShown = states(part("state"));
  const socket = live(() => `/ws/demos/chat?${new URLSearchParams({ room, name })}`, {
    heard,
    silence: 2.5 * ASK_EVERY,
    opened: () => write(part("problem"), ""),
    said: (state, seconds) => {
      stateShown(state, seconds);
      if (state !== "connected") write(part("count"), "–"); // the member list is unknown now
    },
  });

  function heard({ you, people, said, typing: typer, notice }) {
    if (you) me = you;
    if (people) show(people);
    if (said) {
      stopped(said.id);
      line(said.name, said.text, said.id === me);
    }
    if (typer && typer.id !== me) {
      clearTimeout(typing.get(typer.id)?.timer);
      typing.set(typer.id, { name: typer.name, timer: setTimeout(stopped, TYPING_FOR, typer.id) });
      showTyping();
    }
    if (notice) write(part("problem"), notice);
  }

  function show(people) {
    part("people").replaceChildren(
      ...people.map(({ id, name }) => {
        const item = document.createElement("li");
        item.textContent = id === me ? `${name} (you)` : name;
        return item;
      }),
    );
    write(part("count"), people.length);
  }

  function line(name, text, mine) {
    const item = document.createElement("p");
    const who = document.createElement("b");
    who.textContent = `${name}: `;
    item.append(who, text);
    item.classList.toggle("mine", mine);
    log.append(item);
    while (log.childElementCount > LINES) log.firstElementChild.remove();
    log.scrollTop = log.scrollHeight;
  }

  function stopped(id) {
    clearTimeout(typing.get(id)?.timer);
    if (typing.delete(id)) showTyping();
  }

  function showTyping() {
    const names = [...typing.values()].map(({ name }) => name);
    write(part("typing"), names.length ? `${names.slice(0, 3).join(", ")} ${names.length > 1 ? "are" : "is"} typing…` : "");
  }

  part("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = part("text").value.trim();
    if (!text) return;
    const sent = socket.send({ say: text });
    write(part("problem"), sent ? "" : "not sent: no connection");
    if (sent) part("text").value = "";
    told = -Infinity;
  });

  part("text").addEventListener("input", () => {
    if (performance.now() - told < TYPING_FOR / 2) return;
    told = performance.now();
    socket.send('"typing"');
  });

  // A new name or room needs a new connection.
  part("enter")?.addEventListener("submit", (event) => {
    event.preventDefault();
    name = part("name").value.trim() || name;
    room = part("room").value.trim() || room;
    sessionStorage.setItem("chat-name", name);
    log.replaceChildren();
    write(part("problem"), "");
    write(part("here"), room);
    socket.reconnect();
  });

  if (part("name")) part("name").value = name;
  setInterval(() => socket.send('"who"'), ASK_EVERY);
}
