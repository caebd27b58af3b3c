// Keys and touch: which buttons of the game are held, in the order they were pressed.
const KEYS = {
  ArrowUp: "up", ArrowDown: "down", ArrowLeft: "left", ArrowRight: "right",
  KeyW: "up", KeyS: "down", KeyA: "left", KeyD: "right", Space: "fire",
};
const ARROWS = { up: "▲", down: "▼", left: "◀", right: "▶" };
const SHORTCUTS = { KeyP: "pause", KeyN: "step", KeyR: "restart", KeyE: "next", KeyV: "record", KeyH: "dream-from-here" };

export function connectInput(hello, send, view) {
  const others = hello.buttons.filter((name) => !(name in ARROWS) && name !== "fire");
  const held = []; // [source, button]: two keys may hold the same button
  const tell = () => send("hold", [...new Set(held.map(([, button]) => button))].slice(0, 8));

  function press(source, button) {
    if (held.some(([other]) => other === source)) return;
    held.push([source, button]);
    tell();
    const now = view();
    if (now?.paused && now.step === 0 && now.world !== "replay") send("pause", false);
  }

  function release(source) {
    const at = held.findIndex(([other]) => other === source);
    if (at < 0) return;
    held.splice(at, 1);
    tell();
  }

  const buttonOf = (code) => {
    const named = KEYS[code];
    if (hello.buttons.includes(named)) return named;
    return /^Digit\d$/.test(code) ? others[(Number(code.at(-1)) + 9) % 10] : undefined;
  };
  const typing = (event) => event.ctrlKey || event.metaKey || event.altKey || event.target.type === "number"
    || (event.target.type === "range" && event.target.matches(":focus-visible"));

  addEventListener("keydown", (event) => {
    if (typing(event)) return;
    const button = buttonOf(event.code);
    if (button) {
      event.preventDefault();
      press(event.code, button);
    } else if (!event.repeat) {
      shortcut(event);
    }
  });
  addEventListener("keyup", (event) => release(event.code));
  for (const [target, name] of [[window, "blur"], [document, "visibilitychange"]]) {
    target.addEventListener(name, () => {
      held.length = 0;
      tell();
    });
  }

  function shortcut(event) {
    const now = view();
    if (event.code in SHORTCUTS) document.getElementById(SHORTCUTS[event.code]).click();
    else if (event.code === "KeyC") send("controller", now.controller === "human" ? "agent" : "human");
    else if (event.code === "KeyM") send("world", now.world === "model" ? "real" : "model");
    else if (event.code === "Space" && event.target === document.body) {
      event.preventDefault();
      send("pause", !now.paused);
    }
  }

  showPad(hello, others, press, release);
  showKeys(hello, others);
}

function showPad(hello, others, press, release) {
  const pad = document.getElementById("pad");
  const add = (parent, button, label, className) => {
    const key = document.createElement("button");
    Object.assign(key, { type: "button", textContent: label, className });
    key.setAttribute("aria-label", button);
    key.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      key.setPointerCapture(event.pointerId);
      key.classList.add("held");
      press(`pointer ${event.pointerId}`, button);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      key.addEventListener(end, (event) => {
        key.classList.remove("held");
        release(`pointer ${event.pointerId}`);
      });
    }
    key.addEventListener("contextmenu", (event) => event.preventDefault());
    parent.append(key);
  };
  const group = (className) => {
    const part = document.createElement("div");
    part.className = className;
    pad.append(part);
    return part;
  };
  const arrows = hello.buttons.filter((name) => name in ARROWS);
  if (arrows.length) {
    const flat = !arrows.includes("up") && !arrows.includes("down");
    const cross = group(flat ? "cross flat" : "cross");
    arrows.forEach((name) => add(cross, name, ARROWS[name], name));
  }
  if (others.length) {
    const keys = group("keys");
    others.forEach((name) => add(keys, name, name, ""));
  }
  if (hello.buttons.includes("fire")) add(pad, "fire", "Fire", "fire");
}

function showKeys(hello, others) {
  const keys = [];
  const directions = hello.buttons.filter((name) => name in ARROWS);
  if (directions.length) keys.push(["arrows or WASD", "move"]);
  if (hello.buttons.includes("fire")) keys.push(["space", "fire"]);
  others.slice(0, 10).forEach((name, i) => keys.push([String((i + 1) % 10), /^\d+$/.test(name) ? `action ${name}` : name]));
  keys.push(["P", "pause"], ["N", "single step"], ["R", "restart"], ["E", "next episode"], ["C", "you or agent"], ["M", "model or real game"], ["H", "dream on"], ["V", "record"]);
  document.getElementById("keys").replaceChildren(...keys.flatMap(([key, meaning]) => {
    const cap = document.createElement("kbd");
    cap.textContent = key;
    return [cap, document.createTextNode(meaning)];
  }));
}
