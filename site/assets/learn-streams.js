// The two event streams of the lesson, and the question at its end.

import { address, post, states, write } from "./live.js";

const at = (id) => document.getElementById(id);

// A job that everybody watches: its progress is a counter, and who comes late gets where it stands.
const LINES = 50;
let job = null;
let again; // the timer for the next attempt, where the browser makes none
const said = states(at("job-connection"));

function watch() {
  if (job && job.readyState !== EventSource.CLOSED) return;
  clearTimeout(again);
  said("connecting");
  job = new EventSource(address("/events/learn/job"));
  job.onopen = () => said("connected");
  // The browser tries again by itself; only when it was refused has it given up, and we ask again later.
  job.onerror = () => {
    said("reconnecting");
    if (job.readyState === EventSource.CLOSED) again = setTimeout(watch, 3000 + 7000 * Math.random());
  };
  job.onmessage = ({ data }) => {
    const { value, line } = JSON.parse(data);
    if (value !== undefined) {
      at("job-progress").value = value;
      write(at("job-percent"), `${value} %`);
    }
    if (line) {
      const item = document.createElement("p");
      item.textContent = line;
      at("job-log").append(item);
      while (at("job-log").childElementCount > LINES) at("job-log").firstElementChild.remove();
      at("job-log").scrollTop = at("job-log").scrollHeight;
    }
  };
}

at("job-start").addEventListener("click", async () => {
  watch();
  write(at("job-problem"), (await post("/api/learn/job")).problem);
});

// Over HTTP/1.1 a browser has about six streams for each host, so this one is open only while it can be seen.
function unwatch() {
  clearTimeout(again);
  job?.close();
  job = null;
  at("job-connection").dataset.state = "idle";
  write(at("job-connection"), "not listening");
}
let inView = false;
const mind = () => (inView && !document.hidden ? watch() : unwatch());
new IntersectionObserver(([entry]) => {
  inView = entry.isIntersecting;
  mind();
}).observe(at("example-job"));
document.addEventListener("visibilitychange", mind);
addEventListener("pagehide", unwatch);
addEventListener("pageshow", mind);

// A stream whose network is gone only falls silent: nobody says so, but the browser knows.
addEventListener("offline", () => {
  if (!job) return;
  job.close();
  said("reconnecting");
});
addEventListener("online", mind);

// One answer, word by word; it belongs to the one who asked.
let answer = null;
at("words-start").addEventListener("click", () => {
  answer?.close();
  write(at("words"), "");
  write(at("words-problem"), "");
  answer = new EventSource(address("/api/learn/words"));
  answer.onmessage = ({ data }) => at("words").append(`${data} `);
  answer.addEventListener("end", () => answer.close());
  answer.onerror = () => {
    // The answer would begin anew: it has no place to go on from.
    answer.close();
    write(at("words-problem"), "the answer broke off; ask again in a moment");
  };
});
addEventListener("pagehide", () => answer?.close());

// The search is htmx's. What it does not do is say that it got no answer.
for (const failed of ["htmx:sendError", "htmx:responseError"]) {
  document.addEventListener(failed, () => write(at("found"), "No answer came. Try again in a moment."));
}

// The question. The reason is said in any case.
at("quiz").addEventListener("submit", (event) => {
  event.preventDefault();
  const chosen = new FormData(event.target).get("answer") ?? "none";
  at("verdict").dataset.right = chosen === "sse" ? "yes" : "no";
  write(at("verdict"), at(`reason-${chosen}`).content.textContent);
});
