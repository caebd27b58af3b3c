// Buttons, switches and sliders.
const get = (id) => document.getElementById(id);
const SLIDER_MOST = { horizon: 300, denoising_steps: 20 }; // beyond that a slider is too coarse; flags go further

export function connectControls(hello, send, view) {
  const click = (id, action) => get(id).addEventListener("click", (event) => {
    if (event.detail) event.currentTarget.blur(); // after a mouse click, keys belong to the game again
    action(event);
  });
  click("pause", () => send("pause", !view().paused));
  click("veil", () => send("pause", false));
  click("step", () => send("step"));
  click("restart", () => send("restart"));
  click("next", () => send("next"));
  click("record", () => send("record", !view().recording));
  click("dream-from-here", () => send("dream_from_here"));
  click("details", () => send("details", !view().details));
  for (const id of ["world", "controller", "quality"]) {
    click(id, (event) => {
      const value = event.target.dataset.value;
      if (value) send(id, value);
      event.target.blur();
    });
  }

  for (const name of ["denoising_steps", "horizon", "speed"]) {
    const [low, high] = hello.limits[name];
    Object.assign(get(name), { min: low, max: Math.min(high, SLIDER_MOST[name] ?? high), step: 1 });
    slider(name, () => send(name, get(name).valueAsNumber));
  }
  const [low, high] = hello.limits.seed;
  Object.assign(get("seed"), { min: low, max: high, step: 1 });
  get("seed").addEventListener("change", () => {
    send("seed", Math.round(get("seed").valueAsNumber) || 0);
    get("seed").blur();
  });
  slider("episode", () => send("seek", [get("episode").valueAsNumber, 0]));
  slider("place", () => send("seek", [get("episode").valueAsNumber, get("place").valueAsNumber]));
}

// Tells of a slider's last value only, at most every 80 ms while it is dragged.
function slider(id, tell) {
  let waiting = 0;
  get(id).addEventListener("input", () => {
    waiting ||= setTimeout(() => {
      waiting = 0;
      tell();
    }, 80);
  });
  get(id).addEventListener("pointerup", () => setTimeout(() => get(id).blur()));
}
