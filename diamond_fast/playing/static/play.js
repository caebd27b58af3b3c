// The page's heart: one socket, the last view, and what the controls ask for.
import { connectControls } from "./controls.js";
import { connectInput } from "./input.js";
import { connectPad } from "./pad.js";
import { showView, showHello, toast } from "./show.js";

let socket = null;
let hello = null;
let view = null;
let showAction = () => {};

function send(what, value = null) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ do: what, value }));
}

function decode(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const state = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const [height, width] = state.size;
  const pixels = new Uint8Array(buffer, 4 + length);
  const bytes = height * width * 3;
  const images = [];
  for (let start = 0; start < pixels.length; start += bytes) images.push(pixels.subarray(start, start + bytes));
  return { ...state, frame: images[0], trajectory: images.slice(1) };
}

function receive(event) {
  if (typeof event.data === "string") {
    const message = JSON.parse(event.data);
    if (message.notice) toast(message.notice);
    if (message.hello && hello === null) {
      hello = message.hello;
      showHello(hello);
      connectControls(hello, send, () => view);
      showAction = connectPad(hello, connectInput(hello, send, () => view));
    }
    return;
  }
  view = decode(event.data);
  requestAnimationFrame(() => {
    showView(view, hello);
    showAction(view.action);
    send("seen"); // only now may the next but one follow: a page that is slow is shown fewer, never older ones
  });
}

function connect() {
  socket = new WebSocket(new URL("game/socket", location.href).href.replace(/^http/, "ws"));
  socket.binaryType = "arraybuffer";
  socket.onmessage = receive;
  socket.onclose = () => {
    toast("Not connected to the game; trying again…", Infinity);
    setTimeout(connect, 1500);
  };
  socket.onopen = () => toast("");
}

connect();
