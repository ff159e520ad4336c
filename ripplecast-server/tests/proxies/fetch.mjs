// Reads an event stream with the fetch of Node.js: each value of the counter must come at once.
const [base] = process.argv.slice(2);
const body = (await fetch(`${base}/events/counter`)).body.pipeThrough(new TextDecoderStream());
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
