// Measures the layout of a page in the browser: text that leaves its box, is cut off, covered or torn apart, and anything
// but tables and code that scrolls sideways.

// Returns the faults of the page in its current size, as sentences. Runs inside the page, so it must not use anything
// outside itself.
export function faults() {
  const SLACK = 1.5; // px: rounding of sub-pixel layout
  const MOST = 20; // faults reported per page
  const MOST_STICKY = 0.6; // of the width of a table, for the column that stays in view
  const found = new Set();
  const root = document.documentElement;
  const styles = new Map();
  const boxes = new Map();
  const once = (map, key, compute) => map.get(key) ?? (map.set(key, compute(key)), map.get(key));
  const style = (element) => once(styles, element, (element) => getComputedStyle(element));
  const box = (element) => once(boxes, element, (element) => element.getBoundingClientRect());
  const name = (element) => `${element.localName}${element.id ? `#${element.id}` : ""}${[...element.classList].map((one) => `.${one}`).join("")}`;
  const quoted = (text) => JSON.stringify(text.trim().replace(/\s+/g, " ").slice(0, 50));
  const fault = (text) => found.add(text);
  const scrolls = (element) => /auto|scroll/.test(style(element).overflowX);
  const clips = (element) => style(element).overflowX !== "visible";
  const isScroller = (element) => element.localName === "pre" || element.querySelector(":scope > table") !== null;

  // 1. Nothing but tables and code scrolls sideways, and nothing is cut off.
  if (root.scrollWidth > root.clientWidth) fault(`the page is ${root.scrollWidth - root.clientWidth} px too wide`);
  const visible = [...document.body.querySelectorAll("*")].filter((element) => {
    if (element.closest(".unseen, .skip, template, [hidden]") || !element.checkVisibility({ visibilityProperty: true, opacityProperty: true })) return false;
    const { width, height } = box(element);
    return width > 0 && height > 0;
  });
  for (const element of visible) {
    const over = element.scrollWidth - element.clientWidth;
    if (element instanceof SVGElement || element.localName === "input" || !clips(element) || over <= SLACK) continue;
    if (!scrolls(element)) fault(`${name(element)} cuts off ${over} px`);
    else if (!isScroller(element)) fault(`${name(element)} scrolls sideways by ${over} px`);
  }

  // 2. A table that scrolls shows that it does, and keeps its row names in view beside a part of each row. On a laptop, an
  // ordinary table shows all its columns.
  for (const scroller of visible.filter((element) => element.querySelector(":scope > table"))) {
    if (scroller.scrollWidth <= scroller.clientWidth + SLACK) continue;
    if (!style(scroller).backgroundImage.includes("gradient")) fault(`${name(scroller)} scrolls, but its edge does not show it`);
    const columns = scroller.querySelector("tr").cells.length;
    if (innerWidth >= 1280 && columns <= 7) fault(`${name(scroller)} hides some of its ${columns} columns`);
    const first = scroller.querySelector("tbody tr > :first-child");
    if (!first) continue;
    if (style(first).position !== "sticky") fault(`${name(scroller)} scrolls without a sticky first column`);
    if (box(first).width > scroller.clientWidth * MOST_STICKY) fault(`the first column takes most of ${name(scroller)}: ${quoted(first.textContent)}`);
  }

  // 3. Text stays inside its boxes. `texts` collects what is on the screen, for the next step.
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const range = document.createRange();
  const shown = new Set(visible);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    const parent = node.parentElement;
    if (!node.data.trim() || !shown.has(parent) || parent.closest("pre")) continue;
    range.selectNodeContents(node);
    const lines = [...range.getClientRects()].filter(({ width, height }) => width > 0 && height > 0);
    for (const line of lines) {
      let { left, right } = line;
      const middle = { top: line.top + line.height / 4, bottom: line.bottom - line.height / 4 };
      let inView = true;
      for (let up = parent; up && up !== document.body; up = up.parentElement) {
        if (style(up).display === "inline" || style(up).display === "contents" || (up instanceof SVGElement && up.localName !== "svg")) continue;
        const { left: l, right: r, top, bottom } = box(up);
        if (left < l - SLACK || right > r + SLACK) {
          if (clips(up)) [left, right] = [Math.max(left, l), Math.min(right, r)];
          else {
            fault(`${quoted(node.data)} leaves ${name(up)} by ${Math.round(Math.max(l - left, right - r))} px`);
            break;
          }
        }
        if (middle.top < top - SLACK || middle.bottom > bottom + SLACK) {
          if (clips(up)) inView &&= middle.bottom > top && middle.top < bottom;
          else fault(`${quoted(node.data)} leaves ${name(up)} vertically`);
          if (!inView) break;
        }
      }
      if (inView && right > left) texts.push({ node, parent, left, right, ...middle });
    }
    // In a drawing, text stays inside the rectangle that it labels.
    const frame = parent.localName === "text" ? parent.parentElement.querySelector(":scope > rect") : null;
    if (frame && (box(parent).left < box(frame).left - SLACK || box(parent).right > box(frame).right + SLACK)) fault(`${quoted(node.data)} leaves its rectangle`);
    if (lines.length > 1) torn(node, parent, lines);
  }

  // Words stay whole. In a table, labels do not wrap after each word, and code breaks only after a space, `_`, `-` or `/`.
  function torn(node, parent, lines) {
    const cell = parent.closest("th, td");
    if (!cell && !parent.closest("h1, h2, h3, dt, button, .button, nav")) return;
    const tops = [];
    for (let at = 0; at < node.length; at++) {
      range.setStart(node, at);
      range.setEnd(node, at + 1);
      const rect = range.getClientRects()[0];
      if (!rect || !rect.width) continue;
      if (tops.length && rect.top > tops.at(-1).top + rect.height / 2) {
        const [before, after] = [node.data[at - 1], node.data[at]];
        if (!/[\s_/\-–—…·]/.test(before) && !/\s/.test(after)) fault(`${quoted(node.data)} is torn into ${quoted(node.data.slice(0, at))} and ${quoted(node.data.slice(at))}`);
      }
      tops.push({ top: rect.top });
    }
    const words = node.data.trim().split(/\s+/).length;
    if (cell && words > (cell.localName === "th" ? 2 : 3) && lines.length >= words) fault(`${quoted(node.data)} wraps after each word`);
  }

  // 4. No text is covered by other text or by a box that does not contain it.
  const painted = visible.filter((element) => {
    if (element.closest("pre") || element instanceof SVGElement) return element.localName === "svg" || element.localName === "pre";
    const { backgroundColor, borderTopWidth, borderLeftWidth } = style(element);
    return !/, 0\)$|transparent/.test(backgroundColor) || parseFloat(borderTopWidth) > 0 || parseFloat(borderLeftWidth) > 0 || /^(img|input|progress|select)$/.test(element.localName);
  }).flatMap((element) => {
    // An inline element has one box per line.
    const parts = style(element).display === "inline" ? [...element.getClientRects()] : [box(element)];
    return parts.map((one) => ({ element, ...part(one) }));
  });
  function part({ left, right, top, bottom }) {
    return { left, right, top, bottom };
  }
  const all = [...texts, ...painted].sort((a, b) => a.top - b.top);
  const open = [];
  for (const item of all) {
    for (let at = open.length - 1; at >= 0; at--) {
      const other = open[at];
      if (other.bottom <= item.top) {
        open[at] = open.at(-1);
        open.pop();
        continue;
      }
      if (!item.node && !other.node) continue;
      if (Math.min(item.right, other.right) - Math.max(item.left, other.left) <= SLACK) continue;
      if (Math.min(item.bottom, other.bottom) - Math.max(item.top, other.top) <= SLACK) continue;
      const [text, cover] = item.node ? [item, other] : [other, item];
      if (cover.node) {
        if (cover.node !== text.node) fault(`${quoted(text.node.data)} overlaps ${quoted(cover.node.data)}`);
      } else if (!cover.element.contains(text.node) && !hidden(cover, text)) fault(`${quoted(text.node.data)} and ${name(cover.element)} overlap`);
    }
    open.push(item);
  }
  // Returns whether an ancestor of a box hides its part that would overlap a text.
  function hidden({ element }, text) {
    for (let up = element.parentElement; up; up = up.parentElement) {
      if (!clips(up) && style(up).overflowY === "visible") continue;
      const { left, right, top, bottom } = box(up);
      if (text.right <= left || text.left >= right || text.bottom <= top || text.top >= bottom) return true;
    }
    return false;
  }
  return [...found].slice(0, MOST);
}
