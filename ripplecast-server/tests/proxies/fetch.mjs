// Reads an event stream with Node.js's fetch: each value of the counter must arrive immediately.
import dns from "node:dns";

const [base] = process.argv.slice(2);
// Resolves the name in the proxies' configurations to this machine: fetch always sends the URL's host as `Host`.
const address = "127.0.0.1", family = 4;
dns.lookup = (_name, options, found) =>
  options.all ? found(null, [{ address, family }]) : found(null, address, family);

const signal = AbortSignal.timeout(30_000);
const body = (await fetch(`${base}/events/counter`, { signal })).body.pipeThrough(new TextDecoderStream());
let text = "";
const reader = body.getReader();
const until = async (pattern) => {
  while (!pattern.test(text)) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the stream has ended");
    text += value;
  }
  return pattern.exec(text)[1];
};
const first = Number(await until(/data: \{"value":(\d+)\}\n/));
for (let value = first + 1; value < first + 4; value++) {
  await fetch(`${base}/api/counter/bump`, { method: "POST" });
  await until(new RegExp(`data: \\{"value":(${value})\\}\\n`));
}
console.log("fetch");
process.exit(0);
