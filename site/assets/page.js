// What the page adds around the counter: copy buttons, a ripple when the number moves. All of it optional.

for (const button of document.querySelectorAll("button[data-copy]")) {
  const label = button.querySelector("[data-label]");
  const code = document.getElementById(button.dataset.copy);
  let timer;
  button.hidden = false;
  button.addEventListener("click", async () => {
    label.textContent = (await copy(code)) ? "Copied" : "Failed";
    clearTimeout(timer);
    timer = setTimeout(() => (label.textContent = "Copy"), 2000);
  });
}

async function copy(element) {
  try {
    await navigator.clipboard.writeText(element.textContent);
    return true;
  } catch {
    // No clipboard here (a page on plain http, or no permission): select the text, so that one key copies it.
    getSelection().selectAllChildren(element);
    return document.execCommand("copy");
  }
}

// The list of all pages may be longer than the screen: it begins where this page stands.
for (const here of document.querySelectorAll(".pages [aria-current]")) {
  const list = here.closest(".pages");
  list.scrollTop = here.offsetTop - list.clientHeight / 2;
}

// Examples for the terminal name the address that this page came from, with the path below which a proxy serves it.
const origin = new URL("..", import.meta.url).href.replace(/\/$/, "");
for (const element of document.querySelectorAll("[data-origin]")) element.textContent = origin;

const value = document.getElementById("value");
const ripple = document.getElementById("ripple");
const still = matchMedia("(prefers-reduced-motion: reduce)");

if (value) {
  let before = value.textContent;
  new MutationObserver(() => {
    value.dataset.digits = Math.min(value.textContent.length, 12);
    const known = before !== "–";
    before = value.textContent;
    if (!known || still.matches) return;
    ripple.animate(
      [
        { transform: "scale(0.35)", opacity: 0.9 },
        { transform: "scale(1)", opacity: 0 },
      ],
      { duration: 700, easing: "cubic-bezier(0.2, 0.6, 0.3, 1)" },
    );
  }).observe(value, { childList: true, characterData: true, subtree: true });
}
