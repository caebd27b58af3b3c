// Where a dream begins: at a recorded moment that is picked, or at a picture of the player's own.
import { paint } from "./show.js";

export function connectStarts({ starts, frame: [height, width] }, send, toast) {
  const strip = document.getElementById("starts");
  strip.replaceChildren(...starts.map(({ place, size, rgb }) => {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", title: `episode ${place[0] + 1}, step ${place[1]}` });
    const canvas = document.createElement("canvas");
    paint(canvas, size, Uint8Array.from(atob(rgb), (letter) => letter.charCodeAt(0)));
    button.append(canvas);
    button.addEventListener("click", () => {
      send("start", place);
      button.blur();
    });
    return button;
  }));

  const file = document.getElementById("picture");
  file.addEventListener("change", () => {
    if (file.files.length) begin(file.files[0]);
    file.value = "";
    file.blur();
  });
  const screen = document.querySelector(".screen");
  for (const name of ["dragenter", "dragover"]) {
    screen.addEventListener(name, (event) => {
      event.preventDefault();
      screen.classList.add("dropping");
    });
  }
  for (const name of ["dragleave", "drop"]) screen.addEventListener(name, () => screen.classList.remove("dropping"));
  screen.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length) begin(event.dataTransfer.files[0]);
  });

  // The middle of the picture, in the shape and size of a frame.
  async function begin(blob) {
    let picture;
    try {
      picture = await createImageBitmap(blob);
    } catch {
      toast("That file is no picture this browser can read.");
      return;
    }
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const pen = canvas.getContext("2d");
    const scale = Math.max(width / picture.width, height / picture.height);
    const [w, h] = [picture.width * scale, picture.height * scale];
    pen.imageSmoothingQuality = "high";
    pen.drawImage(picture, (width - w) / 2, (height - h) / 2, w, h);
    const rgba = pen.getImageData(0, 0, width, height).data;
    const answer = await fetch("game/picture", { method: "POST", body: rgba.filter((_, i) => i % 4 !== 3) });
    if (!answer.ok) toast(await answer.text());
  }
}
