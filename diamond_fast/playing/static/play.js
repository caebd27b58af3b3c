// The page's heart: one socket, the last view, and what the controls ask for.
import { connectControls } from "./controls.js";
import { connectInput } from "./input.js";
import { connectPad } from "./pad.js";
import { connectStarts } from "./starts.js";
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
  let start = 4 + length;
  const take = ([height, width], count) => Array.from({ length: count }, () => {
    start += height * width * 3;
    return new Uint8Array(buffer, start - height * width * 3, height * width * 3);
  });
  const [frame] = take(state.size, 1);
  const trajectory = take(state.size, state.denoised);
  const [height, width] = state.small_size;
  return { ...state, frame, trajectory, small: take(state.small_size, (buffer.byteLength - start) / (height * width * 3)) };
}

function receive(event) {
  if (typeof event.data === "string") {
    const message = JSON.parse(event.data);
    if (message.notice) toast(message.notice);
    if (message.hello && hello === null) {
      hello = message.hello;
      showHello(hello);
      connectControls(hello, send, () => view);
      connectStarts(hello, send, toast);
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
  socket.onclose = ({ code }) => {
    if (hello?.only_game && code === 1001) { // the next recording has a page of its own
      toast("The recording has ended. This page can be closed.", Infinity);
      return;
    }
    toast("Not connected to the game; trying again…", Infinity);
    setTimeout(connect, 1500);
  };
  socket.onopen = () => toast("");
}

connect();
