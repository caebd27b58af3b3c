// What the player holds and moves, by keyboard, mouse, gamepad and touch, told to the game as one kind of message.
const SHORTCUTS = { KeyP: "pause", KeyN: "step", KeyR: "restart", KeyE: "next", KeyV: "record", KeyH: "dream-from-here" };
const TELL_EVERY = 30; // milliseconds, for what moves; keys are told at once
const STICK_SPEED = 700; // pixels a second, of a mouse that a stick at its end stands for
const DEAD_ZONE = 0.1; // of a gamepad's sticks, which seldom rest at 0
const STEERING = 250; // pixels that a mouse moves from a lever's rest to its end

export function connectInput(hello, send, view) {
  const { keys, levers, looks } = hello.controls;
  const ends = [...levers, ...looks].flatMap(({ less, more }) => [less, more]).filter(Boolean);
  const buttons = new Map([...keys, ...ends].flatMap(({ name, codes }) => codes.map((code) => [code, name])));
  const held = []; // [source, button]: two keys may hold the same button
  let mouse = [0, 0];
  let axes = {};
  let waiting = 0;

  function tell() {
    clearTimeout(waiting);
    waiting = 0;
    send("hold", { keys: [...new Set(held.map(([, button]) => button))], mouse, axes, at: performance.now() });
    mouse = [0, 0];
    axes = {};
  }
  const tellSoon = () => { waiting ||= setTimeout(tell, TELL_EVERY); };

  function begin() {
    const now = view();
    if (now?.paused && now.step === 0 && now.world !== "replay") send("pause", false);
  }

  const input = {
    press(source, button) {
      if (!button || held.some(([other]) => other === source)) return;
      held.push([source, button]);
      tell();
      begin();
    },
    release(source) {
      const at = held.findIndex(([other]) => other === source);
      if (at < 0) return;
      held.splice(at, 1);
      tell();
    },
    move(x, y) {
      mouse = [mouse[0] + x, mouse[1] + y];
      tellSoon();
    },
    put(lever, position) { // null: let go
      axes[lever] = position;
      tellSoon();
      if (position !== null) begin();
    },
  };

  const typing = (event) => event.ctrlKey || event.metaKey || event.altKey || event.target.type === "number"
    || (event.target.type === "range" && event.target.matches(":focus-visible"));
  addEventListener("keydown", (event) => {
    if (typing(event)) return;
    if (buttons.has(event.code)) {
      event.preventDefault();
      input.press(event.code, buttons.get(event.code));
    } else if (!event.repeat) {
      shortcut(event);
    }
  });
  addEventListener("keyup", (event) => input.release(event.code));
  for (const [target, name] of [[window, "blur"], [document, "visibilitychange"]]) {
    target.addEventListener(name, () => {
      held.length = 0;
      tell();
    });
  }

  function shortcut(event) {
    const now = view();
    if (hello.only_game && !["KeyP", "KeyN", "Space"].includes(event.code)) return;
    if (event.code in SHORTCUTS) document.getElementById(SHORTCUTS[event.code]).click();
    else if (event.code === "KeyC" && hello.policy) {
      const next = now.controller === "human" ? "agent" : "human";
      send("controller", next);
      if (next === "agent") begin();
    }
    else if (event.code === "KeyM") send("world", now.world === "model" ? (hello.game ? "real" : "replay") : "model");
    else if (event.code === "Space" && event.target === document.body) {
      event.preventDefault();
      send("pause", !now.paused);
    }
  }

  if (hello.controls.together) connectMouse(hello.controls, buttons, input);
  addEventListener("gamepadconnected", () => connectGamepads(hello.controls, input), { once: true });
  showKeys(hello, buttons);
  return input;
}

// A click on the picture captures the mouse until Escape; then it looks around, or steers.
function connectMouse({ levers, looks }, buttons, input) {
  const frame = document.getElementById("frame");
  const locked = () => document.pointerLockElement === frame;
  const speed = document.getElementById("mouse_speed");
  const steering = looks.length ? null : levers.find(({ rest }) => rest === 0);
  let position = 0;
  document.body.classList.toggle("looks", looks.length > 0);
  for (const id of ["frame", "veil"]) {
    document.getElementById(id).addEventListener("click", (event) => {
      if (event.pointerType === "mouse" && !locked()) frame.requestPointerLock();
    });
  }
  frame.addEventListener("mousemove", (event) => {
    if (!locked()) return;
    if (steering) {
      position = Math.max(-1, Math.min(1, position + event.movementX / STEERING));
      input.put(steering.name, position);
    } else if (looks.length) {
      input.move(event.movementX * speed.valueAsNumber, event.movementY * speed.valueAsNumber);
    }
  });
  frame.addEventListener("mousedown", (event) => {
    if (locked()) input.press(`Mouse${event.button}`, buttons.get(`Mouse${event.button}`));
  });
  addEventListener("mouseup", (event) => input.release(`Mouse${event.button}`));
  frame.addEventListener("contextmenu", (event) => event.preventDefault());
  const straighten = () => {
    if (steering && position) input.put(steering.name, null);
    position = 0;
  };
  addEventListener("keydown", ({ code }) => { // who steers by keys again need not let go of the mouse first
    if (steering && [steering.less, steering.more].some((end) => end?.codes.includes(code))) straighten();
  });
  document.addEventListener("pointerlockchange", () => {
    document.body.classList.toggle("locked", locked());
    if (locked()) return;
    for (const button of [0, 1, 2]) input.release(`Mouse${button}`);
    straighten();
  });
}

function connectGamepads({ keys, levers, looks }, input) {
  const active = new Set(); // levers that a stick holds
  let before = performance.now();

  function strength(button, pad) {
    const of = (code) => {
      const [, kind, number, sign] = /^(Pad|Axis)(\d+)([-+]?)$/.exec(code) ?? [];
      if (kind === "Pad") return pad?.buttons[number]?.value ?? 0;
      return kind ? Math.max(0, (sign === "-" ? -1 : 1) * (pad?.axes[number] ?? 0)) : 0;
    };
    const most = Math.max(0, ...(button?.codes ?? []).map(of));
    return most < DEAD_ZONE ? 0 : most;
  }

  function poll(now) {
    const pad = navigator.getGamepads().find(Boolean); // none: it was unplugged, and holds nothing
    for (const key of keys) {
      if (strength(key, pad) > 0.5) input.press(`pad ${key.name}`, key.name);
      else input.release(`pad ${key.name}`);
    }
    for (const { name, rest, less, more } of levers) {
      const pull = strength(more, pad) - strength(less, pad);
      if (pull) input.put(name, rest + pull * (pull > 0 ? 1 - rest : 1 + rest));
      else if (active.has(name)) input.put(name, null);
      active[pull ? "add" : "delete"](name);
    }
    const pulls = { x: 0, y: 0 };
    for (const { direction, less, more } of looks) pulls[direction] = strength(more, pad) - strength(less, pad);
    const far = STICK_SPEED * Math.min((now - before) / 1000, 0.1);
    if (pulls.x || pulls.y) input.move(pulls.x * far, pulls.y * far);
    before = now;
    requestAnimationFrame(poll);
  }
  requestAnimationFrame(poll);
}

const CODES = {
  ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→", Space: "space", ShiftLeft: "shift",
  Mouse0: "left click", Mouse2: "right click",
};
const called = (code) => CODES[code] ?? code.replace(/^(Key|Digit)/, "");

// What each key does, in the footer.
function showKeys(hello, buttons) {
  const { keys, levers, looks, together } = hello.controls;
  const first = (button) => button?.codes.length ? called(button.codes[0]) : null;
  const directions = keys.filter(({ name }) => ["up", "down", "left", "right"].includes(name));
  const shown = [];
  if (directions.length) shown.push([together && looks.length ? "WASD" : "arrows or WASD", "move"]);
  for (const key of keys.filter((key) => !directions.includes(key))) {
    if (first(key)) shown.push([first(key), /^\d+$/.test(key.name) ? `action ${key.name}` : key.name]);
  }
  const around = looks.flatMap(({ less, more }) => [less, more]);
  const pulled = levers.map(({ name, less, more }) => [name, [less, more]]);
  for (const [name, ends] of [...pulled, ["look", around]]) {
    const codes = ends.map(first).filter(Boolean);
    if (codes.length) shown.push([codes.join(" "), name]);
  }
  if (looks.length) shown.push(["click the picture", "look with the mouse"]);
  else if (levers.length) {
    const pedals = buttons.has("Mouse0") ? "; its buttons are the pedals" : "";
    shown.push(["click the picture", `steer with the mouse${pedals}`]);
  }
  const free = { KeyP: "pause", KeyN: "single step", KeyR: "restart", KeyE: "next episode", KeyC: "you or agent",
    KeyM: hello.game ? "model or real game" : "model or replay", KeyH: "dream on", KeyV: "record" };
  for (const [code, meaning] of Object.entries(free)) {
    if (hello.only_game && !["KeyP", "KeyN"].includes(code)) continue;
    if (!hello.policy && code === "KeyC") continue;
    if (!buttons.has(code)) shown.push([called(code), meaning]);
    else document.querySelector(`#${SHORTCUTS[code]} kbd`)?.remove();
  }
  document.getElementById("keys").replaceChildren(...shown.flatMap(([key, meaning]) => {
    const cap = document.createElement("kbd");
    cap.textContent = key;
    return [cap, document.createTextNode(meaning)];
  }));
}
