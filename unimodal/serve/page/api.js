// Sends requests to the server, with the API key if there is one. A failure is a Problem, whose
// words are for visitors.

const KEY = "unimodal-key";

export class Problem extends Error {
  // action: the text of the button below the message
  constructor(title, message, action = "Try again") {
    super(message);
    Object.assign(this, { title, action });
  }
}

export function hasKey() {
  return sessionStorage.getItem(KEY) !== null;
}

// Returns the Response of a path such as "/v1/store". The path is relative to the page, which a
// proxy may serve below another path.
export async function request(path, { body, signal } = {}) {
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
    throw new Problem(
      "The server does not answer",
      "It may be stopped, or the network is down. Your search is kept.",
    );
  }
  if (response.ok) return response;
  if (response.status === 401) {
    const wasRefused = hasKey();
    sessionStorage.removeItem(KEY);
    if (await askForKey(wasRefused)) return request(path, { body, signal });
    throw new Problem("An API key is needed", "This server shows its catalogue only with a key.");
  }
  throw await readProblem(response);
}

export async function requestJson(path, options) {
  return (await request(path, options)).json();
}

async function readProblem(response) {
  const { status } = response;
  if (status === 429) {
    const seconds = response.headers.get("Retry-After");
    const when = seconds ? `in ${seconds} s` : "in a moment";
    return new Problem("Too many searches at the moment", `Try again ${when}.`);
  }
  const message = (await readMessage(response)) || `The server answered ${status}.`;
  if (status >= 500) return new Problem("The server could not answer", message);
  return new Problem("This search is not possible", message);
}

async function readMessage(response) {
  try {
    const answer = await response.json();
    return String(answer.error?.message ?? answer.detail ?? answer.message ?? "");
  } catch {
    return ""; // not JSON: a proxy's own page, which does not help a visitor
  }
}

// Several requests may be refused at the same time: they share one dialog.
let dialogResult = null;

// Returns whether there is a key now.
function askForKey(wasRefused) {
  dialogResult ??= new Promise((resolve) => {
    const dialog = document.getElementById("key");
    const field = document.getElementById("key-value");
    if (wasRefused) {
      document.getElementById("key-why").textContent = "That key was refused. Try another one.";
    }
    field.value = "";
    dialog.returnValue = "cancel";
    const onClose = () => {
      const key = field.value.trim();
      const hasNewKey = dialog.returnValue === "use" && key !== "";
      field.value = "";
      if (hasNewKey) sessionStorage.setItem(KEY, key);
      dialogResult = null;
      resolve(hasNewKey);
    };
    dialog.addEventListener("close", onClose, { once: true });
    dialog.showModal();
    field.focus();
  });
  return dialogResult;
}
