// Asks the server, with the key if it wants one. What goes wrong is a Problem whose words a visitor can read.

const KEY = "unimodal-key";

export class Problem extends Error {
  constructor(title, message, way = "Try again") {
    super(message);
    Object.assign(this, { title, way }); // way: what the button under it says
  }
}

export function hasKey() {
  return sessionStorage.getItem(KEY) !== null;
}

// -> the Response of a path such as "/v1/store"; it is asked beside the page, wherever that lies behind a proxy.
export async function ask(path, { body, signal } = {}) {
  const address = new URL(path.replace(/^\//, ""), document.baseURI);
  const options = { signal, headers: {}, credentials: "omit" };
  if (body !== undefined) {
    options.method = "POST";
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  if (hasKey()) options.headers["Authorization"] = `Bearer ${sessionStorage.getItem(KEY)}`;
  let response;
  try {
    response = await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The server does not answer", "It may have been stopped, or the network is away. Your search is kept.");
  }
  if (response.ok) return response;
  if (response.status === 401) {
    const wasRefused = hasKey();
    sessionStorage.removeItem(KEY);
    if (await askForKey(wasRefused)) return ask(path, { body, signal });
    throw new Problem("A key is needed", "This server shows its catalogue only to those who have a key.");
  }
  throw await problemOf(response);
}

export async function askJson(path, options) {
  return (await ask(path, options)).json();
}

async function problemOf(response) {
  let message = "";
  try {
    const answer = await response.json();
    message = answer.error?.message ?? answer.detail ?? answer.message ?? "";
  } catch {
    // no JSON: a proxy's own page, which says nothing to a visitor
  }
  if (response.status === 429) {
    const seconds = response.headers.get("Retry-After");
    return new Problem("Too many are searching now", seconds ? `Try again in ${seconds} s.` : "Try again in a moment.");
  }
  if (response.status >= 500) {
    return new Problem("The server could not answer", String(message) || `It said ${response.status}.`);
  }
  return new Problem("This cannot be searched for", String(message) || `The server said ${response.status}.`);
}

// Several requests may be refused at the same time: they share one dialog. -> whether there is a key now.
let asking = null;

function askForKey(wasRefused) {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("key");
    const field = document.getElementById("key-value");
    if (wasRefused) document.getElementById("key-why").textContent = "That key was refused. Try another one.";
    field.value = "";
    dialog.returnValue = "cancel";
    dialog.addEventListener("close", () => {
      const key = field.value.trim();
      const given = dialog.returnValue === "use" && key !== "";
      field.value = "";
      if (given) sessionStorage.setItem(KEY, key);
      asking = null;
      resolve(given);
    }, { once: true });
    dialog.showModal();
    field.focus();
  });
  return asking;
}
