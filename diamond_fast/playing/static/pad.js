// The controls on the page: to be touched, and to show what the last action did with each of them.
const ARROWS = { up: "▲", down: "▼", left: "◀", right: "▶" };
const END = 12; // pixels from a slider's edge to the middle of its thumb at the end
const LOOK_SPEED = 700; // pixels a second, of a mouse that the stick at its edge stands for

export function connectPad({ controls: { keys, levers, looks, together } }, input) {
  const pad = document.getElementById("pad");
  document.body.classList.toggle("together", together);
  const group = (className) => {
    const part = document.createElement("div");
    part.className = className;
    pad.append(part);
    return part;
  };

  const arrows = keys.filter(({ name }) => name in ARROWS);
  const others = keys.filter(({ name }) => !(name in ARROWS) && name !== "fire");
  const shows = new Map(); // name -> what shows a number of the last action
  if (arrows.length) {
    const flat = !arrows.some(({ name }) => name === "up" || name === "down");
    const cross = group(flat ? "cross flat" : "cross");
    for (const { name } of arrows) shows.set(name, addKey(cross, name, ARROWS[name], name, input));
  }
  if (others.length) {
    const chips = group("keys");
    for (const { name } of others) shows.set(name, addKey(chips, name, name, "", input));
  }
  if (levers.length) {
    const sliders = group("levers");
    for (const lever of levers) shows.set(lever.name, addLever(sliders, lever, input));
  }
  if (looks.length) addStick(group("look"), looks, shows, input);
  if (keys.some(({ name }) => name === "fire")) shows.set("fire", addKey(pad, "fire", "Fire", "fire", input));

  const names = [...keys, ...levers, ...looks].map(({ name }) => name);
  return (action) => {
    if (Array.isArray(action)) names.forEach((name, i) => shows.get(name)?.(action[i]));
  };
}

function addKey(parent, button, label, className, input) {
  const key = document.createElement("button");
  Object.assign(key, { type: "button", textContent: label, className });
  key.setAttribute("aria-label", button);
  track(key, {
    begin(event) {
      key.classList.add("held");
      input.press(`pointer ${event.pointerId}`, button);
    },
    end(event) {
      key.classList.remove("held");
      input.release(`pointer ${event.pointerId}`);
    },
  });
  parent.append(key);
  return (value) => key.classList.toggle("on", value > 0.5);
}

function addLever(parent, { name, rest }, input) {
  const row = document.createElement("div");
  row.className = rest === -1 ? "lever pedal" : "lever";
  row.dataset.lever = name;
  row.innerHTML = "<span></span><div class='track'><i></i></div>";
  const [label, slot] = row.children;
  label.textContent = name;
  const put = (event) => {
    const box = slot.getBoundingClientRect();
    const place = (event.clientX - box.left - END) / (box.width - 2 * END);
    input.put(name, Math.max(-1, Math.min(1, 2 * place - 1)));
  };
  track(slot, { begin: put, move: put, end: () => input.put(name, null) });
  parent.append(row);
  return (value) => slot.style.setProperty("--at", (value + 1) / 2);
}

// A stick for a mouse that looks around: the farther it is pulled, the faster the mouse.
function addStick(parent, looks, shows, input) {
  const stick = document.createElement("div");
  stick.id = "look";
  stick.setAttribute("aria-label", "look around");
  stick.innerHTML = "<i></i>";
  parent.append(stick);
  let pull = null;
  const aim = (event) => {
    const box = stick.getBoundingClientRect();
    const within = (at, low, size) => Math.max(-1, Math.min(1, (2 * (at - low)) / size - 1));
    pull = [within(event.clientX, box.left, box.width), within(event.clientY, box.top, box.height)];
  };
  track(stick, {
    begin(event) {
      aim(event);
      let before = performance.now();
      requestAnimationFrame(function turn(now) {
        if (!pull) return;
        const far = (LOOK_SPEED * Math.max(0, now - before)) / 1000;
        input.move(pull[0] * far, pull[1] * far);
        before = now;
        requestAnimationFrame(turn);
      });
    },
    move: aim,
    end() { pull = null; },
  });
  for (const { name, direction } of looks) {
    const side = direction === "x" ? "left" : "top";
    shows.set(name, (value) => stick.firstChild.style.setProperty(side, `${50 + 42 * value}%`));
  }
}

// A pointer that is pressed on an element belongs to it until it is let go.
function track(element, { begin, move = () => {}, end }) {
  let own = null;
  element.addEventListener("pointerdown", (event) => {
    if (own !== null) return;
    event.preventDefault();
    own = event.pointerId;
    element.setPointerCapture(own);
    begin(event);
  });
  element.addEventListener("pointermove", (event) => { if (event.pointerId === own) move(event); });
  for (const name of ["pointerup", "pointercancel"]) {
    element.addEventListener(name, (event) => {
      if (event.pointerId !== own) return;
      own = null;
      end(event);
    });
  }
  element.addEventListener("contextmenu", (event) => event.preventDefault());
}
