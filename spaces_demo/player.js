// The player: keeps what the page shows of a game, and turns keys and buttons into messages over a WebSocket, each of which
// gets one answer (connection.py). Gradio says as the value of this element which game is played.
const $ = (id) => document.getElementById(id);
const KEYS = [["a", "d"], ["s", "w"], ["f", "r"], ["j", "l"], ["k", "i"], ["n", "m"]];
const ARROWS = { arrowleft: "a", arrowright: "d", arrowdown: "s", arrowup: "w" };
const UNSURE = 60; // minus the log-probability of a frame at which the meter is empty
const FRAMES_PER_SECOND = 15; // while a key is held

const MODELS = $("wm-model").href;

let game = { lines: [[]], active: 0, actions: { names: [], low: [], high: [] }, has_reward: false };
let gameKey = null; // who has it plays the game
let socket = null;
let chosen = null; // a frame of the active line that is looked at
let isAwaited = false; // whether a frame is
let dreamed = []; // actions of a dream that are still to be played
let asked = 0, next = null; // when the last action was played, and the timer of the next one
let shown = []; // when the last frames were shown
const held = new Set(); // keys and buttons that are down, as "axis,side"
let grip = 0; // the gripper stays as it was last told

const line = () => game.lines[game.active];
const isGrip = (axis) => /grip/i.test(game.actions.names[axis] ?? "");

function canvasOf(frame) {
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  paint(canvas, frame);
  return canvas;
}

function paint(canvas, frame) {
  canvas.width = frame.width;
  canvas.height = frame.height;
  canvas.getContext("2d").putImageData(frame, 0, 0);
}

function drawScreens() {
  $("wm-screens").replaceChildren(...game.lines.map((moments, number) => {
    const screen = document.createElement("div");
    screen.className = "wm-screen" + (number === game.active ? " active" : "") + (game.lines.length === 1 ? " only" : "");
    screen.append(canvasOf(moments.at(-1).frame));
    if (game.lines.length > 1) {
      const label = document.createElement("span");
      label.textContent = `line ${number + 1}`;
      screen.append(label);
      screen.onclick = () => send("line", { index: number });
    }
    return screen;
  }));
}

function draw() {
  [...$("wm-screens").children].forEach((screen, number) => {
    const moments = game.lines[number];
    const index = number === game.active && chosen !== null ? chosen : moments.length - 1;
    paint(screen.firstChild, moments[index].frame);
    screen.firstChild.setAttribute("aria-label", `frame ${index} of line ${number + 1}`);
  });
  const now = line()[chosen ?? line().length - 1] ?? {};
  $("wm-reward-meter").hidden = !game.has_reward;
  $("wm-reward").textContent = now.reward == null ? "–" : now.reward.toFixed(2);
  // What was not predicted, as the start, has no certainty.
  $("wm-certainty").style.width = `${now.log_prob == null ? 0 : 100 * Math.max(0, 1 + now.log_prob / UNSURE)}%`;
  $("wm-count").textContent = `${chosen ?? line().length - 1}`;
  $("wm-rate").textContent = shown.length < 3 ? "–" : `${Math.round(1000 * (shown.length - 1) / (shown.at(-1) - shown[0]))}/s`;
  $("wm-branch").disabled = line().length < 2 && chosen === null;
  $("wm-undo").disabled = line().length < 2;
  $("wm-dream").textContent = dreamed.length ? "wake up" : "let it dream";
}

function thumbnail(moment, number, index) {
  const image = canvasOf(moment.frame);
  image.title = `frame ${index}`;
  image.onclick = () => {
    if (number !== game.active) { send("line", { index: number }); return; }
    chosen = index === line().length - 1 ? null : index;
    mark();
    draw();
  };
  return image;
}

function mark() {
  $("wm-strips").querySelectorAll("canvas").forEach((image) => image.classList.remove("chosen"));
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
  if (!isPlaying()) shown = [];
  held.add(key);
  document.querySelector(`[data-press="${key}"]`)?.classList.add("down");
  if (socket === null) connect();
  play(!dreamed.length);
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

// The action that is played next: that of a dream, or what is held.
const wanted = () => (dreamed.length ? dreamed[0] : action());
const isPlaying = () => dreamed.length > 0 || held.size > 0;

// One action at a time: the next one leaves when the frame of the last one is there, as long as anything is held, and at
// no more than so many a second.
function play(isAtOnce = true) {
  clearTimeout(next);
  if (isAwaited || !isPlaying()) return;
  const pause = asked + 1000 / FRAMES_PER_SECOND - performance.now();
  if (!isAtOnce && pause > 0) { next = setTimeout(play, pause); return; }
  asked = performance.now();
  if (!say("act", { action: wanted() })) return;
  awaitFrame(true);
  dreamed.shift();
  // What is still held when the screen is drawn again will be asked for next, so that it can be begun.
  requestAnimationFrame(() => { if (isPlaying()) say("expect", { action: wanted() }); });
}

function say(kind, content) {
  const isOpen = socket?.readyState === WebSocket.OPEN;
  if (isOpen) socket.send(JSON.stringify({ kind, game: gameKey, ...window.sampling, ...content }));
  return isOpen;
}

function send(kind, content) {
  dreamed = []; // it wakes up
  $("wm-error").textContent = "";
  if (socket === null) connect(); else say(kind, content);
}

function awaitFrame(isIt) {
  isAwaited = isIt;
  $("wm-screens").ariaBusy = isIt;
}

// Connect, and show the game as the server has it.
function connect() {
  if (gameKey === null) return;
  const address = new URL("play", document.baseURI);
  address.protocol = address.protocol.replace("http", "ws");
  address.search = address.hash = "";
  let isOpen = false;
  socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => { isOpen = true; say("show"); };
  socket.onmessage = ({ data }) => receive(read(data));
  socket.onclose = ({ reason }) => {
    socket = null;
    awaitFrame(false);
    stop();
    $("wm-error").textContent = isOpen
      ? `The connection ended${reason ? `: ${reason}` : ""}. Press a key to connect again.`
      : `No connection to ${address}, over which frames come. A proxy may not let WebSockets through, or the server does not ` +
        "answer to this name. Press a key to try again.";
  };
}

function stop() {
  clearTimeout(next);
  [...held].forEach(release);
  dreamed = [];
}

// What the server says, and its pictures.
function read(data) {
  const length = new DataView(data).getUint32(0, true);
  const message = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  const pixels = new Uint8Array(data, 4 + length), { width, height } = message, size = 3 * width * height;
  message.frames = Array.from({ length: size ? pixels.length / size : 0 }, (_, number) => {
    const frame = new ImageData(width, height);
    for (let from = number * size, to = 0; to < frame.data.length; from += 3, to += 4) {
      frame.data[to] = pixels[from];
      frame.data[to + 1] = pixels[from + 1];
      frame.data[to + 2] = pixels[from + 2];
      frame.data[to + 3] = 255;
    }
    return frame;
  });
  return message;
}

const EVENTS = {
  game: ({ frames, ...message }) => {
    $("wm-goal").hidden = !message.has_goal;
    if (message.has_goal) paint($("wm-goal").querySelector("canvas"), frames.shift());
    for (const moment of message.lines.flat()) moment.frame = frames.shift();
    Object.assign(game, message);
    chosen = null;
    grip = 0;
    dreamed = [];
    $("wm-model").href = game.link ?? MODELS;
    drawPad();
    drawScreens();
    drawStrips();
  },
  moment: ({ line: number, index, moment, frames }) => {
    chosen = null;
    moment.frame = frames[0];
    const moments = game.lines[number], strip = $("wm-strips").children[number];
    moments.length = index;
    while (strip.children.length > index) strip.lastChild.remove();
    moments.push(moment);
    strip.append(thumbnail(moment, number, index));
    strip.scrollLeft = strip.scrollWidth;
    mark();
    shown = [...shown.slice(1 - FRAMES_PER_SECOND), performance.now()];
  },
  cut: ({ line: number, length }) => {
    chosen = null;
    const strip = $("wm-strips").children[number];
    game.lines[number].length = length;
    while (strip.children.length > length) strip.lastChild.remove();
    mark();
  },
  line: ({ active }) => { game.active = active; chosen = null; drawScreens(); mark(); },
  dream: ({ actions }) => { dreamed = actions; shown = []; },
  expecting: () => {},
  error: ({ text }) => { $("wm-error").textContent = text; stop(); },
};

function receive(message) {
  EVENTS[message.kind](message);
  if (message.kind === "moment" || message.kind === "error") awaitFrame(false);
  draw();
  play(false);
}

// What Gradio says: the game that is played now, or why there is none.
function hear() {
  let message;
  try { message = JSON.parse(props.value); } catch { return; }
  if (message.kind === "error") EVENTS.error(message);
  if (message.kind !== "play") return;
  gameKey = message.game;
  stop();
  if (socket === null) connect(); else say("show");
}

function dream() {
  if (dreamed.length) { dreamed = []; $("wm-dream").textContent = "let it dream"; return; }
  send("dream");
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
watch("value", hear);
