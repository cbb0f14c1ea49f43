import { Source } from "./audio.js";
import { Stream } from "./stream.js";

const part = (id) => document.getElementById(id);
const names = new Map(); // hotword -> its item in the list
let source = null;
let stream = null;
let levels = [];

function say(text, state = "idle") {
  part("state").textContent = text;
  part("state").dataset.state = state;
}

async function begin(file = null) {
  end();
  say("Opening …");
  try {
    source = await Source.open(file, heard, end);
  } catch (error) {
    say(file ? "This file cannot be played here" : `No microphone: ${error.message}`, "error");
    return;
  }
  part("microphone").setAttribute("aria-pressed", "true");
  part("microphone").querySelector("span").textContent = "Stop";
  part("hint").hidden = true;
  const mine = new Stream(
    { rate: source.rate, hotwords: [...names.keys()], token: sessionStorage.getItem("token") },
    (event) => tell(mine, event),
    (close) => over(mine, close),
  );
  stream = mine;
}

/** No more audio; what was said is still written down. */
function end() {
  source?.close();
  source = null;
  stream?.end();
  stream = null;
  part("microphone").setAttribute("aria-pressed", "false");
  part("microphone").querySelector("span").textContent = "Speak";
}

function heard(samples) {
  levels.push(samples.reduce((most, one) => Math.max(most, Math.abs(one)), 0));
  levels = levels.slice(-120);
  draw();
  if (!stream) return;
  stream.send(samples);
  part("heard").textContent = `${stream.seconds.toFixed(1)} s`;
}

function tell(from, event) {
  const show = {
    ready() { hotwords(event); say("Listening", "live"); source?.start(); },
    hotwords() { hotwords(event); },
    partial() {
      part("stable").textContent = [...event.text].slice(0, event.stable).join("");
      part("provisional").textContent = [...event.text].slice(event.stable).join("");
      delay("partial", from.since(event.time));
    },
    hotword() { light(event.text); },
    final() { write(event); delay("final", from.since(event.words.at(-1)?.end ?? event.end)); },
    error() {
      say(event.message, "error");
      if (event.code === "unauthorized") { part("access").hidden = false; part("token").focus(); }
    },
  }[event.event];
  show?.();
}

function over(from, close) {
  if (stream === from) end();
  if (part("state").dataset.state === "error") return;
  if (close.code === 1000) say("Ready");
  else say(`The server closed the connection${close.reason ? ` (${close.reason})` : ""}`, "error");
}

function delay(id, milliseconds) {
  if (milliseconds !== null) part(id).textContent = `${Math.round(milliseconds)} ms`;
}

/** The second, closer look at an utterance takes the place of the first. */
function write(event) {
  part("stable").textContent = part("provisional").textContent = "";
  if (!event.text) return;
  const item = document.createElement("li");
  const time = document.createElement("time");
  time.textContent = `${event.start.toFixed(1)} s`;
  const text = document.createElement("span");
  text.textContent = event.text;
  item.append(time, text);
  part("finals").append(item);
  item.scrollIntoView({ block: "nearest" });
}

function hotwords({ added, rejected }) {
  for (const name of added) chip(name);
  part("rejected").textContent = rejected.map((one) => one.reason).join("; ");
  for (const { text } of rejected) forget(text);
}

function chip(name) {
  if (names.has(name)) return names.get(name);
  const item = document.createElement("li");
  const remove = document.createElement("button");
  remove.type = "button";
  remove.textContent = "×";
  remove.setAttribute("aria-label", `Remove ${name}`);
  remove.onclick = () => { forget(name); stream?.change([], [name]); };
  item.append(name, remove);
  part("hotwords").append(item);
  names.set(name, item);
  return item;
}

function forget(name) {
  names.get(name)?.remove();
  names.delete(name);
}

/** A name was heard: one of the list, or of the server's database. */
function light(name) {
  const item = chip(name);
  item.classList.remove("lit");
  void item.offsetWidth; // so that a name that is heard again glows again
  item.classList.add("lit");
  setTimeout(() => item.classList.remove("lit"), 6000);
}

function draw() {
  const canvas = part("wave");
  const pen = canvas.getContext("2d");
  const step = canvas.width / 120;
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--accent");
  levels.forEach((level, index) => {
    const height = Math.max(2, Math.sqrt(level) * canvas.height);
    pen.fillRect(index * step, (canvas.height - height) / 2, step - 1, height);
  });
}

part("microphone").onclick = () => (source ? end() : begin());
part("file").onchange = ({ target }) => { if (target.files[0]) begin(target.files[0]); target.value = ""; };
part("add").onsubmit = (submit) => {
  submit.preventDefault();
  const added = part("hotword").value.split(/[,，、;；\n]+/).map((name) => name.trim()).filter(Boolean);
  part("hotword").value = "";
  if (stream) stream.change(added, []);
  else added.forEach(chip);
};
part("access").onsubmit = (submit) => {
  submit.preventDefault();
  sessionStorage.setItem("token", part("token").value);
  part("access").hidden = true;
  begin();
};
