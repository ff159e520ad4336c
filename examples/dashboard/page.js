// Draws the last minute. The browser reconnects automatically when the stream ends.

const KEPT = 60; // seconds
const at = (id) => document.getElementById(id);
let samples = [];

const figures = new EventSource("/figures");
figures.onopen = () => (at("state").textContent = "live");
figures.onerror = () => (at("state").textContent = "connection lost, reconnecting …");
figures.onmessage = ({ data }) => {
  const news = JSON.parse(data); // the last minute as a list, or one second
  samples = Array.isArray(news) ? news : [...samples, news].slice(-KEPT);
  draw();
};

function draw() {
  const newest = samples.at(-1);
  if (!newest) return;
  for (const [name, value] of Object.entries(newest)) at(name).textContent = value.toLocaleString();
  const highest = Math.max(1, ...samples.map(({ connections }) => connections));
  const left = KEPT - samples.length;
  const points = samples.map(({ connections }, at) => `${left + at},${95 - (90 * connections) / highest}`);
  at("line").setAttribute("points", points.join(" "));
}
