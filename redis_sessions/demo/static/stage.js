// The panels: each form's answer is a piece of HTML, which is shown below the form.

async function send(form) {
  const place = document.getElementById(form.dataset.into);
  place.ariaBusy = "true";
  const body = new URLSearchParams(new FormData(form));
  const answer = await fetch(form.action, { method: "POST", body }).catch(() => null);
  if (answer?.ok) place.innerHTML = await answer.text(); // escaped by the server
  else if (answer?.status === 503) place.textContent = "Redis is away: the answer was 503.";
  else place.textContent = answer ? `The answer was ${answer.status}.` : "The demo doesn't answer. Does it still run?";
  place.ariaBusy = "false";
}

document.addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const buttons = form.querySelectorAll("button");
  for (const button of buttons) button.ariaDisabled = "true";
  await send(form);
  for (const button of buttons) button.ariaDisabled = null;
  if (form.dataset.watch) watch(form.dataset.watch);
});

// The record is drawn again when the laptop's session changes, and when a box is ticked.
const live = document.querySelector("form[data-live]");
let timer = 0;
function redraw() {
  clearTimeout(timer);
  timer = setTimeout(() => send(live), 100);
}
live.addEventListener("change", redraw);
addEventListener("message", (event) => {
  if (event.origin === location.origin && event.data === "changed") redraw();
});
send(live);

// What requests get while Redis is away, and for a while after it is back.
let watching = null;
function watch(path) {
  clearInterval(watching);
  let left = 60;
  const list = document.querySelector("#answers");
  const ask = async () => {
    if (--left < 0) clearInterval(watching);
    const begun = performance.now();
    const answer = await fetch(path).catch(() => null);
    const took = `${Math.round(performance.now() - begun)} ms`;
    const said = answer ? `${answer.status} ${answer.ok ? "OK" : "Service Unavailable"}` : "no answer";
    const last = list.lastElementChild;
    if (last?.dataset.said === said) {
      last.dataset.times = Number(last.dataset.times) + 1;
      last.textContent = `${said} × ${last.dataset.times}, the last in ${took}`;
      return;
    }
    const item = document.createElement("li");
    item.dataset.said = said;
    item.dataset.times = 1;
    item.textContent = `${said} in ${took}`;
    list.append(item);
  };
  ask();
  watching = setInterval(ask, 500);
}
