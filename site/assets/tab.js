// A number for this tab, at random: with it the page can ask the server what happens to this tab's own socket.

export const tab = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
