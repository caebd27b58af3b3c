// Everything that is shown: frame, figures, policy, chart, trajectory, recordings.
const get = (id) => document.getElementById(id);
const WORLDS = { model: "World model", real: "Real game", replay: "Replay" };
const CUT = { model: "Cut off at the horizon", real: "The game's time is up", replay: "The recording stops here" };
const LONGEST_CHART = 400; // steps

let toastTimer = 0;
let lastNotice = "";
let latency = 0; // milliseconds from the player's word to the picture, as of late
let answered = null;
let shownFilms = 0;
let chart = { episode: -1, points: [] };

export function toast(text, milliseconds = 5000) {
  clearTimeout(toastTimer);
  get("toast").textContent = text;
  get("toast").hidden = !text;
  if (text && milliseconds < Infinity) toastTimer = setTimeout(() => toast(""), milliseconds);
}

export function showHello(hello) {
  document.title = `${hello.title} · diamond_fast`;
  get("title").textContent = hello.title;
  for (const part of ["policy", "game", "rewards"]) document.body.classList.toggle(`no-${part}`, !hello[part]);
  document.body.classList.toggle("only-game", hello.only_game === true);
  get("policy").classList.toggle("many", hello.actions.length > 9);
  get("policy").replaceChildren(...hello.actions.map((name) => {
    const row = document.createElement("div");
    row.className = "action";
    row.innerHTML = "<span></span><div class='bar'><i></i></div><span></span>";
    row.firstChild.textContent = name;
    row.firstChild.title = name;
    return row;
  }));
}

export function paint(canvas, [height, width], rgb) {
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const image = new ImageData(width, height);
  for (let i = 0, j = 0; i < rgb.length; i += 3, j += 4) {
    image.data[j] = rgb[i];
    image.data[j + 1] = rgb[i + 1];
    image.data[j + 2] = rgb[i + 2];
    image.data[j + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

export function showView(view, hello) {
  document.body.dataset.world = view.world;
  get("frame").parentElement.style.setProperty("--aspect", view.size[1] / view.size[0]);
  paint(get("frame"), view.size, view.frame);
  get("where").textContent = WORLDS[view.world];
  showSpeed(view, hello);
  showVeil(view);
  showFigures(view);
  showPolicy(view, hello);
  showChart(view, hello);
  get("small").hidden = !view.small.length;
  if (view.small.length) paint(get("small"), view.small_size, view.small.at(-1));
  showTrajectory(view);
  showControls(view, hello);
  showFilms(view);
  if (view.notice !== lastNotice) toast(view.notice);
  lastNotice = view.notice;
}

function showSpeed(view, hello) {
  const expected = view.world === "model" ? `, up to ${rounded(hello.frame_rate)} steps/s` : "";
  if (view.answers !== null && view.answers !== answered) {
    answered = view.answers;
    const took = performance.now() - answered;
    if (took > 0 && took < 60000) latency += (latency ? 0.2 : 1) * (took - latency); // another page's clock may differ
  }
  const delay = latency ? ` · ${Math.round(latency)} ms from key to picture` : "";
  get("speedometer").textContent = view.frames_per_second
    ? `${rounded(view.frames_per_second)} steps/s${delay}`
    : `on ${hello.device}${expected}`;
}

const rounded = (x) => (x < 10 ? x.toFixed(1) : Math.round(x));

function showVeil(view) {
  const veil = get("veil");
  const fresh = view.paused && view.step === 0 && view.world !== "replay";
  veil.hidden = !(fresh || view.over || view.paused);
  veil.classList.toggle("thin", !fresh);
  const title = fresh ? "Press a key or tap to play"
    : view.over === "end" ? "The episode ended" : view.over ? CUT[view.world] : "Paused";
  get("veil-title").textContent = title;
  get("veil-text").textContent = {
    model: "Every frame from here on is imagined by the world model.",
    real: "This is the real game.",
  }[view.world] ?? "";
  get("recording-light").hidden = !view.recording;
}

function showFigures(view) {
  const signed = (x, digits) => (x === null ? "–" : (x > 0 ? "+" : "") + x.toFixed(digits).replace("-", "−"));
  const whole = (x) => signed(x, Number.isInteger(x) ? 0 : 1);
  get("reward").textContent = whole(view.reward);
  get("reward").className = view.reward > 0 ? "good" : view.reward < 0 ? "bad" : "";
  get("total").textContent = whole(view.total);
  get("value").textContent = signed(view.value, 2);
  get("count").textContent = view.position ? `${view.position[1]}` : view.step;
}

function showPolicy(view, hello) {
  if (!view.probabilities.length) return;
  const taken = view.action;
  [...get("policy").children].forEach((row, i) => {
    const p = view.probabilities[i];
    const isShare = i < hello.controls.keys.length || !hello.controls.together;
    row.classList.toggle("taken", Array.isArray(taken) ? isShare && taken[i] > 0.5 : i === taken);
    const bar = row.querySelector("i");
    bar.style.width = `${(isShare ? 100 : 50) * Math.abs(p)}%`;
    bar.style.marginLeft = isShare ? "0" : `${50 + Math.min(0, 50 * p)}%`; // numbers from -1 to 1 begin in the middle
    row.lastChild.textContent = isShare ? `${(100 * p).toFixed(p < 0.0995 ? 1 : 0)} %` : p.toFixed(2).replace("-", "−");
  });
}

function showChart(view, hello) {
  if (view.episode !== chart.episode) chart = { episode: view.episode, points: [] };
  const points = chart.points;
  if (!points.length || points.at(-1).step < view.step) {
    points.push({ step: view.step, value: view.value ?? 0, reward: view.reward ?? 0 });
  }
  if (points.length > LONGEST_CHART) points.shift();
  const canvas = get("chart");
  const ratio = devicePixelRatio || 1;
  const [w, h] = [canvas.clientWidth, canvas.clientHeight];
  canvas.width = w * ratio;
  canvas.height = h * ratio;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const low = Math.min(-0.5, ...points.map((p) => p.value));
  const high = Math.max(0.5, ...points.map((p) => p.value));
  const span = Math.max(points.at(-1).step - points[0].step, 30);
  const x = (p) => 3 + ((p.step - points[0].step) / span) * (w - 6);
  const y = (value) => h - 8 - ((value - low) / (high - low)) * (h - 16);
  const colours = getComputedStyle(document.body);
  pen.strokeStyle = "#2b3242";
  pen.beginPath();
  pen.moveTo(0, y(0));
  pen.lineTo(w, y(0));
  pen.stroke();
  for (const p of points) {
    if (!p.reward) continue;
    pen.fillStyle = colours.getPropertyValue(p.reward > 0 ? "--good" : "--bad");
    pen.fillRect(x(p) - 1.5, 0, 3, h);
  }
  if (!hello.policy) return; // there are no values
  pen.strokeStyle = colours.getPropertyValue("--accent");
  pen.lineWidth = 2;
  pen.beginPath();
  points.forEach((p, i) => (i ? pen.lineTo(x(p), y(p.value)) : pen.moveTo(x(p), y(p.value))));
  pen.stroke();
}

function showTrajectory(view) {
  const strip = get("trajectory");
  get("details").setAttribute("aria-pressed", view.details);
  const small = view.small.length > 1 ? view.small : [];
  const levels = [...view.small_noise_levels, ...view.noise_levels];
  const pictures = [...small.map((rgb) => [view.small_size, rgb]), ...view.trajectory.map((rgb) => [view.size, rgb])];
  const lasts = [small.length - 1, pictures.length - 1];
  const count = pictures.length;
  if (!count) {
    const why = !view.details ? "Not shown: it is much to send in full size."
      : view.world === "model" ? "A real frame: the dream starts from it." : "Not denoised: these frames are real.";
    if (strip.textContent !== why) strip.innerHTML = "<p></p>";
    strip.firstChild.textContent = why;
    return;
  }
  if (strip.querySelectorAll("figure").length !== count) {
    strip.replaceChildren(...pictures.map(() => {
      const figure = document.createElement("figure");
      figure.append(document.createElement("canvas"), document.createElement("figcaption"));
      return figure;
    }));
  }
  pictures.forEach(([size, rgb], i) => {
    const [canvas, caption] = strip.children[i].children;
    paint(canvas, size, rgb);
    const name = i < small.length ? "small frame" : "frame";
    caption.textContent = i === 0 || i === small.length ? "noise"
      : lasts.includes(i) ? name : `level ${Number(levels[i].toPrecision(3))}`;
  });
}

function showControls(view, hello) {
  for (const [id, value] of [["world", view.world], ["controller", view.controller], ["quality", view.quality]]) {
    for (const button of get(id).children) {
      button.setAttribute("role", "radio");
      button.setAttribute("aria-checked", button.dataset.value === value);
      button.disabled = id === "controller" && view.world === "replay";
    }
  }
  const [icon, word] = get("pause").children;
  icon.textContent = view.paused ? "▶" : "❚❚";
  word.textContent = view.paused ? "Play" : "Pause";
  get("record").setAttribute("aria-pressed", view.recording);
  get("record").disabled = view.world === "replay";
  document.body.classList.toggle("two-stages", view.quality !== null);
  get("dream-from-here").hidden = view.world === "model";
  get("browser").hidden = view.world !== "replay";
  for (const name of ["denoising_steps", "horizon", "speed", "seed"]) {
    const input = get(name);
    if (document.activeElement !== input && !input.matches(":active")) input.value = view[name];
    if (name !== "seed") get(`${name}-text`).textContent = view[name];
  }
  if (view.position) {
    const [episode, step, length] = view.position;
    const lengths = hello.replay.lengths;
    Object.assign(get("episode"), { max: lengths.length - 1 });
    Object.assign(get("place"), { max: length - 1 });
    if (!get("episode").matches(":active")) get("episode").value = episode;
    if (!get("place").matches(":active")) get("place").value = step;
    get("episode-text").textContent = `${episode + 1} of ${lengths.length}`;
    get("place-text").textContent = `${step} of ${length}`;
  }
}

function showFilms(view) {
  if (view.recordings.length === shownFilms) return;
  shownFilms = view.recordings.length;
  get("films-card").hidden = !shownFilms;
  get("films").replaceChildren(...view.recordings.map((name, number) => {
    const item = document.createElement("li");
    const label = document.createElement("span");
    label.textContent = name.replace("_", " ");
    item.append(label, ...["mp4", "gif"].map((format) => {
      const link = document.createElement("a");
      Object.assign(link, { href: `film/${number}.${format}`, textContent: format, download: `${name}.${format}` });
      return link;
    }));
    return item;
  }).reverse());
}
