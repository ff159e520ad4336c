// Optional extras of each page: copy buttons, and a ripple when the number changes.

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
    // No clipboard access (plain HTTP, or no permission): select the text, and copy the selection.
    getSelection().selectAllChildren(element);
    return document.execCommand("copy");
  }
}

// The list of pages may be taller than the screen: scroll it to the current page.
for (const here of document.querySelectorAll(".pages [aria-current]")) {
  const list = here.closest(".pages");
  list.scrollTop = here.offsetTop - list.clientHeight / 2;
}

// Terminal examples use the address of this server, including the path prefix of a proxy.
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
