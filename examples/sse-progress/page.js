// Starts a job, and follows it on the event stream named in the response. The job is part of the page's address, so
// that reloading the page, or opening it elsewhere, follows the same job.

const [start, follow, bar, state] = ["start", "follow", "bar", "state"].map((id) => document.getElementById(id));
let events = null;

start.onsubmit = async (event) => {
  event.preventDefault();
  const response = await fetch("/jobs", { method: "POST" });
  if (response.ok) location.hash = await response.json();
  else state.textContent = await response.text();
};

follow.onclick = () => open(location.href, "_blank");
addEventListener("hashchange", show);
show();

function show() {
  const address = location.hash.slice(1);
  events?.close();
  follow.hidden = !address;
  if (!address) return;
  events = new EventSource(address);
  state.textContent = "Running.";
  events.onmessage = ({ data }) => {
    bar.value = JSON.parse(data).value;
    if (bar.value < bar.max) return;
    state.textContent = "Done.";
    events.close(); // otherwise the browser would reconnect again and again
  };
  events.onerror = () => {
    const gone = events.readyState === EventSource.CLOSED; // the server responded with 404
    state.textContent = gone ? "This job no longer exists." : "Connection lost. Reconnecting …";
  };
}
