// For development: reloads the page when the program has restarted or a file has changed, and only the styles when only
// they changed. Field contents, focus and scroll position are kept. Only a debug build includes this script.

const KEPT = "dev: before the reload";
let known = null;

restore();
new EventSource("/dev/events").onmessage = ({ data }) => {
  const version = JSON.parse(data);
  known ??= version;
  if (version.page !== known.page) {
    keep();
    location.reload();
  } else if (version.styles !== known.styles) {
    for (const link of document.querySelectorAll("link[rel=stylesheet]")) {
      const url = new URL(link.href);
      url.searchParams.set("v", version.styles);
      link.href = url;
    }
  }
  known = version;
};

function fields() {
  return [...document.querySelectorAll("input, textarea, select")];
}

function keep() {
  if (!fields().length) return; // on an error page, keep what was saved before it
  const values = fields().map(({ value, checked }) => ({ value, checked }));
  const focus = fields().indexOf(document.activeElement);
  sessionStorage.setItem(KEPT, JSON.stringify({ values, focus, y: scrollY }));
}

function restore() {
  const kept = JSON.parse(sessionStorage.getItem(KEPT));
  if (!kept || !fields().length) return;
  sessionStorage.removeItem(KEPT);
  fields().forEach((field, at) => {
    if (field.type !== "file" && kept.values[at]) Object.assign(field, kept.values[at]);
  });
  fields()[kept.focus]?.focus();
  scrollTo(0, kept.y);
}
