// The page shows what happens to its session in other tabs and on other devices. Without this
// script it shows that when it is loaded again.

const signedOut = document.querySelector("#signed-out");
const away = document.querySelector("#away");
let latest = 0;
let newest; // the drawing that began last
let own = 0; // how many of this page's own forms are under way
let waiting = 0; // until it connects again

function connect() {
  waiting = 0;
  if (!away.hidden) return connectAfter(500); // `draw` finds out when it is back
  const socket = new WebSocket("changes");
  socket.onopen = draw; // also what happened while there was no socket
  socket.onmessage = draw;
  // 1008: the session has ended. If another tab signed in, its new cookie may still be on its way.
  socket.onclose = (event) => connectAfter(event.code === 1008 ? 200 : 1000);
}

function connectAfter(milliseconds) {
  clearTimeout(waiting);
  waiting = setTimeout(connect, milliseconds);
}

// It is over when the page is as the newest answer has it.
function draw() {
  return (newest = drawOnce());
}

async function drawOnce() {
  const turn = ++latest;
  const answer = await fetch(location.href).catch(() => null);
  const text = answer?.ok ? await answer.text().catch(() => "") : "";
  if (turn !== latest) return newest; // something else has changed by now
  away.hidden = answer?.status !== 503;
  if (!text) {
    setTimeout(() => turn === latest && draw(), 1000);
    return;
  }
  const page = new DOMParser().parseFromString(text, "text/html");
  const [before, now] = [document, page].map((any) => any.querySelector("main"));
  if (now.isEqualNode(before)) return;
  const [was, is] = [before, now].map((main) => main.querySelector("#principal"));
  if (was || is) signedOut.hidden = is !== null || own > 0;
  replace(before, now);
  document.title = page.title;
  if (parent !== window) parent.postMessage("changed", location.origin);
}

// What has the focus keeps it, and a name that is half typed isn't lost.
function replace(before, now) {
  const mark = (one) => [one.tagName, one.id, one.name, one.value, one.form?.action, one.ariaLabel].join();
  const held = before.contains(document.activeElement) ? document.activeElement : null;
  const [typed, field] = [before, now].map((main) => main.querySelector("#name"));
  if (field) field.value = typed?.value ?? (parent === window ? "" : "Ada"); // as in a new window
  before.replaceWith(now);
  if (!held) return;
  const same = [...now.querySelectorAll("button, input, [tabindex]")].find((one) => mark(one) === mark(held));
  if (!same) now.tabIndex = -1; // it is gone: the next Tab goes on from here
  (same ?? now).focus({ preventScroll: true });
}

document.addEventListener("submit", async (event) => {
  event.preventDefault();
  const { target: form, submitter } = event;
  const body = new URLSearchParams(new FormData(form));
  if (submitter?.name) body.set(submitter.name, submitter.value);
  own += 1;
  // The answer leads to this page, which `draw` asks for.
  const answer = await fetch(form.action, { method: "POST", body, redirect: "manual" }).catch(() => null);
  await draw();
  own -= 1;
  if (answer?.status === 503) {
    away.hidden = false; // who isn't signed in can still look, so `draw` has seen nothing of it
    setTimeout(draw, 3000);
  }
  if (waiting) connectAfter(0); // there may be a session now
});

const steps = [[5400, 60, "min"], [129600, 3600, "h"], [Infinity, 86400, "days"]];

setInterval(() => {
  for (const time of document.querySelectorAll("time")) {
    const seconds = (Date.now() - Date.parse(time.dateTime)) / 1000;
    const [, size, unit] = steps.find(([until]) => seconds < until);
    time.textContent = seconds < 45 ? "just now" : `${Math.round(seconds / size)} ${unit} ago`;
  }
}, 10000);

connect();
