// A random id for this tab, with which the page can watch the callbacks of its own socket.

export const tab = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
