// The player: keeps what the page shows of a game, and turns keys and buttons into events. Python sends messages as the
// value of this element; it answers each event with one.
const $ = (id) => document.getElementById(id);
const KEYS = [["a", "d"], ["s", "w"], ["f", "r"], ["j", "l"], ["k", "i"], ["n", "m"]];
const ARROWS = { arrowleft: "a", arrowright: "d", arrowdown: "s", arrowup: "w" };
const UNSURE = 60; // minus the log-probability of a frame at which the meter is empty

const MODELS = $("wm-model").href;

let game = { lines: [[]], active: 0, actions: { names: [], low: [], high: [] }, has_reward: false };
let chosen = null; // a frame of the active line that is looked at
let busy = true, dreaming = false;
const held = new Set(); // keys and buttons that are down, as "axis,side"
let grip = 0; // the gripper stays as it was last told

const line = () => game.lines[game.active];
const isGrip = (axis) => /grip/i.test(game.actions.names[axis] ?? "");

function draw() {
  const screens = $("wm-screens");
  screens.replaceChildren(...game.lines.map((moments, number) => {
    const screen = document.createElement("div"), image = document.createElement("img");
    const index = number === game.active && chosen !== null ? chosen : moments.length - 1;
    screen.className = "wm-screen" + (number === game.active ? " active" : "") + (game.lines.length === 1 ? " only" : "");
    image.src = moments[index]?.image ?? "";
    image.alt = `frame ${index} of line ${number + 1}`;
    screen.append(image);
    if (game.lines.length > 1) {
      const label = document.createElement("span");
      label.textContent = `line ${number + 1}`;
      screen.append(label);
      screen.onclick = () => send("line", { line: number });
    }
    return screen;
  }));
  const now = line()[chosen ?? line().length - 1] ?? {};
  $("wm-reward-meter").hidden = !game.has_reward;
  $("wm-reward").textContent = now.reward == null ? "–" : now.reward.toFixed(2);
  // What was not predicted, as the start, has no certainty.
  $("wm-certainty").style.width = `${now.log_prob == null ? 0 : 100 * Math.max(0, 1 + now.log_prob / UNSURE)}%`;
  $("wm-count").textContent = `${chosen ?? line().length - 1}`;
  $("wm-branch").disabled = line().length < 2 && chosen === null;
  $("wm-undo").disabled = line().length < 2;
  $("wm-dream").textContent = dreaming ? "wake up" : "let it dream";
}

function thumbnail(moment, number, index) {
  const image = document.createElement("img");
  image.src = moment.image;
  image.title = `frame ${index}`;
  image.onclick = () => {
    if (number !== game.active) { send("line", { line: number }); return; }
    chosen = index === line().length - 1 ? null : index;
    mark();
    draw();
  };
  return image;
}

function mark() {
  $("wm-strips").querySelectorAll("img").forEach((image) => image.classList.remove("chosen"));
  if (chosen !== null) $("wm-strips").children[game.active]?.children[chosen]?.classList.add("chosen");
}

function drawStrips() {
  $("wm-strips").replaceChildren(...game.lines.map((moments, number) => {
    const strip = document.createElement("div");
    strip.className = "wm-strip";
    strip.append(...moments.map((moment, index) => thumbnail(moment, number, index)));
    return strip;
  }));
}

function drawPad() {
  const { names } = game.actions;
  const rows = names.map((name, axis) => {
    const row = document.createElement("div"), label = document.createElement("span");
    row.className = "wm-axis";
    label.textContent = name;
    const buttons = [0, 1].map((side) => {
      const button = document.createElement("button");
      button.innerHTML = (isGrip(axis) ? ["open", "close"][side] : ["−", "+"][side]) +
        `<kbd>${isGrip(axis) ? (side ? "G" : "") : (KEYS[axis]?.[side] ?? "").toUpperCase()}</kbd>`;
      button.dataset.press = `${axis},${side}`;
      button.onpointerdown = (event) => { button.setPointerCapture(event.pointerId); press(`${axis},${side}`); };
      button.onpointerup = button.onpointercancel = () => release(`${axis},${side}`);
      return button;
    });
    row.append(buttons[0], label, buttons[1]);
    return row;
  });
  if (!names.length) {
    const button = document.createElement("button");
    button.textContent = "next frame";
    button.dataset.press = "next";
    button.onpointerdown = () => press("next");
    button.onpointerup = button.onpointercancel = () => release("next");
    rows.push(button);
  }
  $("wm-pad").replaceChildren(...rows);
  $("wm-hint").textContent = hint(names);
}

function hint(names) {
  if (!names.length) return "This checkpoint takes no actions: press space, or let it dream.";
  const driven = names.map((name, axis) => ({ name, keys: KEYS[axis] })).filter(({ keys }, axis) => keys && !isGrip(axis));
  const parts = driven.map(({ name, keys }) => `${keys.join(" ").toUpperCase()} for ${name}`);
  if (names.some((_, axis) => isGrip(axis))) parts.push("G for the gripper");
  return `Hold keys or buttons: ${parts.join(", ")}; arrows work as well. Backspace undoes, B branches, Enter dreams.`;
}

function press(key) {
  const [axis, side] = key.split(",").map(Number);
  if (isGrip(axis)) grip = side ? 1 : -1;
  held.add(key);
  document.querySelector(`[data-press="${key}"]`)?.classList.add("down");
  play();
}

function release(key) {
  held.delete(key);
  document.querySelector(`[data-press="${key}"]`)?.classList.remove("down");
}

function action() {
  const { names, low, high } = game.actions;
  if (!names.length) return null;
  return names.map((_, axis) => {
    const middle = (low[axis] + high[axis]) / 2;
    const wanted = isGrip(axis) ? grip : (held.has(`${axis},1`) ? 1 : 0) - (held.has(`${axis},0`) ? 1 : 0);
    return wanted > 0 ? high[axis] : wanted < 0 ? low[axis] : middle;
  });
}

// One action at a time: the next one leaves when the frame of the last one is there, as long as anything is held.
function play() {
  if (busy || dreaming || !held.size) return;
  send("act", { action: action() });
}

function send(name, data) {
  if (busy && name !== "stop") return;
  busy = name !== "stop";
  $("wm-error").textContent = "";
  trigger(name, data ?? {});
}

const EVENTS = {
  game: (message) => {
    Object.assign(game, message);
    chosen = null;
    grip = 0;
    dreaming = false;
    $("wm-model").href = game.link ?? MODELS;
    $("wm-goal").hidden = !game.goal;
    if (game.goal) $("wm-goal").querySelector("img").src = game.goal;
    drawPad();
    drawStrips();
  },
  moment: ({ line: number, index, moment }) => {
    chosen = null;
    const moments = game.lines[number], strip = $("wm-strips").children[number];
    moments.length = index;
    while (strip.children.length > index) strip.lastChild.remove();
    moments.push(moment);
    strip.append(thumbnail(moment, number, index));
    strip.scrollLeft = strip.scrollWidth;
    mark();
  },
  cut: ({ line: number, length }) => {
    chosen = null;
    const strip = $("wm-strips").children[number];
    game.lines[number].length = length;
    while (strip.children.length > length) strip.lastChild.remove();
    mark();
  },
  line: ({ active }) => { game.active = active; chosen = null; mark(); },
  error: ({ text }) => { $("wm-error").textContent = text; held.clear(); },
  idle: () => { dreaming = false; },
};

function receive() {
  let message;
  try { message = JSON.parse(props.value); } catch { return; }
  EVENTS[message.kind](message);
  busy = dreaming;
  draw();
  if (!dreaming) play();
}

function dream() {
  if (dreaming) { trigger("stop", {}); dreaming = busy = false; draw(); return; }
  if (busy) return;
  dreaming = true;
  send("dream");
  draw();
}

function keyOf(event) {
  const key = ARROWS[event.key.toLowerCase()] ?? event.key.toLowerCase();
  if (!game.actions.names.length) return key === " " ? "next" : null;
  if (key === "g") {
    const axis = game.actions.names.findIndex((_, i) => isGrip(i));
    return axis < 0 ? null : `${axis},${grip > 0 ? 0 : 1}`;
  }
  for (let axis = 0; axis < game.actions.names.length; axis++) {
    const side = isGrip(axis) ? -1 : (KEYS[axis] ?? []).indexOf(key);
    if (side >= 0) return `${axis},${side}`;
  }
  return null;
}

const downKeys = {}; // which press a keyboard key stands for, since G changes sides
const isTyping = (event) => /^(input|textarea|select)$/i.test(event.target.tagName) || event.ctrlKey || event.metaKey;
// Enter and space press what is focused below the player, and links.
const isPressing = (event) => (event.key === "Enter" || event.key === " ") && event.target.closest("#below button, a");
document.addEventListener("keydown", (event) => {
  if (isTyping(event) || isPressing(event)) return;
  const tools = { backspace: "undo", escape: "restart" }[event.key.toLowerCase()];
  if (tools) { event.preventDefault(); send(tools); return; }
  if (event.key === "Enter") { event.preventDefault(); dream(); return; }
  if (event.key.toLowerCase() === "b") { branch(); return; }
  const key = keyOf(event);
  if (key === null) return;
  event.preventDefault();
  if (event.repeat) return;
  downKeys[event.code] = key;
  press(key);
});
document.addEventListener("keyup", (event) => {
  if (event.code in downKeys) { release(downKeys[event.code]); delete downKeys[event.code]; }
});
window.addEventListener("blur", () => [...held].forEach(release));

const branch = () => send("branch", { index: chosen ?? line().length - 1 });
$("wm-undo").onclick = () => send("undo");
$("wm-restart").onclick = () => send("restart");
$("wm-branch").onclick = branch;
$("wm-dream").onclick = dream;
watch("value", receive);
