// The lesson's two event streams, search errors and quiz.

import { address, post, states, write } from "./live.js";

const at = (id) => document.getElementById(id);

// A job that everyone watches. Its progress is a counter, so a tab that joins late gets the current value.
const LINES = 50;
let job = null;
let again; // timer for our own reconnect, when the browser has given up
const said = states(at("job-connection"));

function watch() {
  if (job && job.readyState !== EventSource.CLOSED) return;
  clearTimeout(again);
  said("connecting");
  job = new EventSource(address("/events/learn/job"));
  job.onopen = () => said("connected");
  // The browser reconnects by itself, except after an error response. In that case, reconnect later.
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

// Over HTTP/1.1 a browser allows about six connections per host, so this stream is open only while its panel
// is visible.
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

// A stream that loses its network just goes silent. The stream reports no error, but the browser fires
// "offline".
addEventListener("offline", () => {
  if (!job) return;
  job.close();
  said("reconnecting");
});
addEventListener("online", mind);

// One answer, word by word, for the tab that asked.
let answer = null;
at("words-start").addEventListener("click", () => {
  answer?.close();
  write(at("words"), "");
  write(at("words-problem"), "");
  answer = new EventSource(address("/api/learn/words"));
  answer.onmessage = ({ data }) => at("words").append(`${data} `);
  answer.addEventListener("end", () => answer.close());
  answer.onerror = () => {
    // Reconnecting would start the answer again from the beginning, because the stream has no position to
    // resume from.
    answer.close();
    write(at("words-problem"), "the answer was interrupted; ask again in a moment");
  };
});
addEventListener("pagehide", () => answer?.close());

// htmx runs the search, but shows nothing when a request fails.
for (const failed of ["htmx:sendError", "htmx:responseError"]) {
  document.addEventListener(failed, () => write(at("found"), "No answer received. Try again in a moment."));
}

// The quiz. Right or wrong, the reason is shown.
at("quiz").addEventListener("submit", (event) => {
  event.preventDefault();
  const chosen = new FormData(event.target).get("answer") ?? "none";
  at("verdict").dataset.right = chosen === "sse" ? "yes" : "no";
  write(at("verdict"), at(`reason-${chosen}`).content.textContent);
});
