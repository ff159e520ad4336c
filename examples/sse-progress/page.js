// Starts a job, and follows it by the event stream that the server names. The job is in the page's address, so that
// reloading it, or opening it elsewhere, follows the same one.

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
  state.textContent = "It runs.";
  events.onmessage = ({ data }) => {
    bar.value = JSON.parse(data).value;
    if (bar.value < bar.max) return;
    state.textContent = "Done.";
    events.close(); // or the browser would open it again and again
  };
  events.onerror = () => {
    const gone = events.readyState === EventSource.CLOSED; // the server said 404
    state.textContent = gone ? "There is no such job any more." : "The connection is lost; trying again …";
  };
}
