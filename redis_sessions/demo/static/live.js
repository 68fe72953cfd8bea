// The page shows what happens to its session in other tabs and on other devices. Without this
// script it shows that when it is loaded again.

const signedOut = document.querySelector("#signed-out");
let latest = 0;

function show() {
  const socket = new WebSocket("/changes");
  socket.onopen = draw; // also what happened while there was no socket
  socket.onmessage = draw;
  // 1008: the session has ended. If another tab signed in, its new cookie may still be on its way.
  socket.onclose = (event) => setTimeout(show, event.code === 1008 ? 200 : 1000);
}

async function draw() {
  const turn = ++latest;
  const text = await fetch("/").then((answer) => answer.ok && answer.text()).catch(() => "");
  if (!text || turn !== latest) return; // Redis is away, or something else has changed by now
  const page = new DOMParser().parseFromString(text, "text/html");
  const [before, now] = [document, page].map((any) => any.querySelector("main"));
  if (now.isEqualNode(before)) return;
  const [was, is] = [before, now].map((main) => main.querySelector("#principal"));
  if (was || is) signedOut.hidden = is !== null;
  before.replaceWith(now);
  document.title = page.title;
}

show();
