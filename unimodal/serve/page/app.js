// The search page: sends a search (state.js) to the server (api.js), and shows the hits
// (results.js).

import { Problem, requestJson } from "./api.js";
import { buildFilters, describeFilters, element } from "./filters.js";
import { imageIn, readImage } from "./image.js";
import { makeTitles, moveByArrows, showHits, showImage, showPlaceholders } from "./results.js";
import { PAGE, emptySearch, fromAddress, isQuery, toAddress, toBody } from "./state.js";

const TITLE = "Search by words and images";
const FRESH = 3000; // milliseconds for which the store's facts are used
const VECTOR_NAMES = { text: "texts", image: "images", fused: "both at once" };
const byId = (id) => document.getElementById(id);

let store = null; // the answer of /v1/store
let storeRequest = null; // a promise, while it is requested
let storeTime = 0;
let fields = new Map();
let search = emptySearch();
let setFilters = () => {};
let running = new AbortController();

connect();
restore();

// Reads the store once, however many wait for it. The address needs the store's fields.
async function readStore() {
  if (store) return;
  try {
    await (storeRequest ??= requestJson("/v1/store").then(useStore));
  } finally {
    storeRequest = null;
  }
}

function useStore(answer) {
  useFacts(answer);
  search = fromAddress(location.search, history.state, fields);
  byId("catalogue").title = store.model ? `Searched with ${store.model}` : "";
  const acceptsImages = store.modalities.includes("image");
  const isNarrow = matchMedia("(max-width: 560px)").matches;
  document.querySelector(".pick").hidden = !acceptsImages;
  if (!acceptsImages || isNarrow) byId("text").placeholder = "Describe it";
  if (store.count && !store.modalities.includes("text")) byId("text").disabled = true;
  byId("hybrid-choice").hidden = !store.words;
  byId("group-choice").hidden = !store.parent;
  byId("vector-choice").hidden = store.vectors.length < 2;
  for (const vector of store.vectors) {
    byId("vector").append(new Option(VECTOR_NAMES[vector] ?? vector, vector));
  }
}

// What changes while a store is written to: its count, and the values of its fields.
function useFacts(answer) {
  store = answer;
  storeTime = Date.now();
  showCount(store.count);
  fields = new Map(store.fields.map((field) => [field.name, field]));
  setFilters = buildFilters(byId("filters-body"), store.fields, (field, wanted) => {
    const filters = { ...search.filters };
    if (wanted) filters[field] = wanted;
    else delete filters[field];
    find({ filters, k: PAGE });
  });
  byId("filters").hidden = !byId("filters-body").children.length;
}

function showCount(count) {
  byId("catalogue").textContent = `${count.toLocaleString()} items`;
}

// Reads the store's facts again after a search. The filters are not rebuilt while they are in use.
async function followStore() {
  if (Date.now() - storeTime < FRESH) return;
  storeTime = Date.now();
  const answer = await requestJson("/v1/store").catch(() => null); // the next search tries again
  if (!answer) return;
  const isSame = JSON.stringify(answer.fields) === JSON.stringify(store.fields);
  if (isSame || byId("filters-body").contains(document.activeElement)) {
    showCount(answer.count);
    return;
  }
  useFacts(answer);
  setFilters(search.filters);
}

// Runs the search of the address and the history.
async function restore() {
  showBusy();
  try {
    await readStore();
  } catch (error) {
    showProblem(error);
    return;
  }
  search = fromAddress(location.search, history.state, fields);
  await run();
}

// Changes the search: adds an entry to the history, and runs it.
async function find(change) {
  showBusy();
  try {
    await readStore();
  } catch (error) {
    showProblem(error, () => find(change));
    return;
  }
  search = { ...search, ...change };
  const saved = { image: search.image, likeName: search.likeName, k: search.k };
  history.pushState(saved, "", toAddress(search));
  await run();
}

async function run() {
  showSearch();
  showBusy();
  running.abort();
  running = new AbortController();
  const { signal } = running;
  try {
    const answer = await requestJson("/v1/search", { body: toBody(search, store), signal });
    showAnswer(answer);
    followStore();
  } catch (error) {
    if (error.name !== "AbortError") showProblem(error);
  } finally {
    if (!signal.aborted) byId("hits").setAttribute("aria-busy", "false");
  }
}

function showBusy() {
  byId("trouble").hidden = true;
  byId("empty").hidden = true;
  const hits = byId("hits");
  hits.setAttribute("aria-busy", "true");
  if (!hits.querySelector(".hit")) showPlaceholders(hits, 12);
  byId("status").textContent = "Searching …";
}

function showAnswer({ hits, took_ms: took }) {
  showHits(byId("hits"), hits, store, (hit, title) => {
    find({ like: hit.id, likeName: title, text: "", image: "", k: PAGE });
    byId("results").focus({ preventScroll: true });
    scrollTo({ top: 0 });
  });
  byId("status").textContent = describeAnswer(hits.length, took);
  const hasFilters = Object.keys(search.filters).length > 0;
  byId("empty").hidden = hits.length > 0;
  byId("empty-why").textContent = hasFilters
    ? "No item matches these filters."
    : "This catalogue is empty.";
  byId("empty-clear").hidden = !hasFilters;
  byId("more").hidden = hits.length < search.k || search.k >= store.max_k;
}

// For example "24 items, best first · 31 ms (20 to read the query, 11 to search)".
function describeAnswer(count, took) {
  const items = `${count} ${count === 1 ? "item" : "items"}`;
  let order = "";
  if (!isQuery(search)) order = " of the catalogue";
  else if (count > 1) order = ", best first";
  const text = `${items}${order} · ${(took.embed + took.search).toFixed(0)} ms`;
  if (took.embed < 0.5) return text;
  const reading = `${took.embed.toFixed(0)} to read the query`;
  return `${text} (${reading}, ${took.search.toFixed(0)} to search)`;
}

function showProblem(error, retry = restore) {
  const isKnown = error instanceof Problem;
  if (!isKnown) console.error(error);
  byId("hits").replaceChildren();
  byId("hits").setAttribute("aria-busy", "false");
  byId("status").textContent = "";
  byId("more").hidden = true;
  byId("empty").hidden = true;
  const box = byId("trouble");
  box.querySelector("h2").textContent = isKnown ? error.title : "Something went wrong on this page";
  box.querySelector("p").textContent = isKnown ? error.message : "Reload the page.";
  byId("again").textContent = error.action ?? "Try again";
  byId("again").onclick = retry;
  box.hidden = false;
}

// Sets all controls to the search.
function showSearch() {
  byId("text").value = search.text;
  byId("without").value = search.without;
  byId("weight").value = String(search.weight);
  showWeight();
  byId("vector").value = search.vector;
  byId("hybrid").checked = search.hybrid;
  byId("group").checked = search.group;
  showExample();
  setFilters(search.filters);
  const active = describeFilters(search.filters);
  byId("filters-count").textContent = String(active.length);
  byId("filters-count").hidden = active.length === 0;
  byId("chosen").replaceChildren(...active.map(makeChip));
  document.body.classList.toggle("asking", isQuery(search));
  enableOptions();
  const subject = search.text || search.likeName || (search.image ? "an image" : "");
  document.title = subject ? `${subject} – search` : TITLE;
}

// Options that belong to a query are disabled without one.
function enableOptions() {
  const hasQuery = isQuery({ ...search, text: byId("text").value.trim() });
  for (const id of ["without", "vector", "hybrid", "group"]) byId(id).disabled = !hasQuery;
}

// A chip that removes one filter.
function makeChip({ field, value, text }) {
  const button = element("button", text, "chip");
  button.type = "button";
  button.setAttribute("aria-label", `Remove the filter ${text}`);
  button.addEventListener("click", () => {
    const filters = { ...search.filters };
    const rest = value === null ? [] : filters[field].filter((other) => other !== value);
    if (rest.length) filters[field] = rest;
    else delete filters[field];
    find({ filters, k: PAGE });
  });
  const item = element("li");
  item.append(button);
  return item;
}

// Shows the image, or the item, of the search.
function showExample() {
  const hasExample = Boolean(search.image || search.like);
  const image = byId("example-image");
  byId("example").hidden = !hasExample;
  byId("mix").hidden = !(search.text && hasExample);
  byId("weight-name").textContent = search.like ? "This item" : "Image";
  byId("example-name").textContent = search.like ? `like ${search.likeName || search.like}` : "";
  byId("example-name").title = search.likeName || search.like;
  image.hidden = !hasExample;
  if (search.image) image.src = search.image;
  else if (search.like) showItem(image, search.like);
  else image.removeAttribute("src");
}

async function showItem(image, id) {
  try {
    const item = await requestJson(`/v1/items/${encodeURIComponent(id)}`);
    if (search.like !== id) return;
    byId("example-name").textContent = `like ${makeTitles(store)(item)}`;
    if (item.thumbnail) await showImage(image, item.thumbnail);
    else image.hidden = true;
  } catch {
    image.hidden = true; // the search itself reports what is wrong
  }
}

function showWeight() {
  const share = Number(byId("weight").value);
  const name = search.like ? "this item" : "image";
  byId("weight-shown").textContent = `${100 - share} : ${share}`;
  byId("weight").setAttribute("aria-valuetext", `${100 - share} % words, ${share} % ${name}`);
}

async function useImage(file) {
  try {
    const image = await readImage(file);
    await find({ image, like: "", likeName: "", text: byId("text").value.trim(), k: PAGE });
  } catch (error) {
    showProblem(error);
  }
}

function connect() {
  connectSearch();
  byId("example-remove").addEventListener("click", removeExample);
  byId("more").addEventListener("click", () => find({ k: search.k + PAGE }));
  byId("empty-clear").addEventListener("click", () => find({ filters: {}, k: PAGE }));
  // not a submit button, because Enter means the other one
  byId("key-cancel").addEventListener("click", () => byId("key").close("cancel"));
  connectToggle(byId("filters-toggle"), byId("filters-body"));
  connectToggle(byId("options-toggle"), byId("options"));
  addEventListener("popstate", restore);
  moveByArrows(byId("hits"));
  connectImages();
  connectKeys();
}

function connectSearch() {
  byId("search").addEventListener("submit", (event) => {
    event.preventDefault();
    find({ text: byId("text").value.trim(), without: byId("without").value.trim(), k: PAGE });
  });
  byId("text").addEventListener("search", () => {
    // the field's own button to clear it
    if (!byId("text").value && search.text) find({ text: "", k: PAGE });
  });
  byId("text").addEventListener("input", enableOptions);
  byId("weight").addEventListener("input", showWeight);
  const onChange = (id, read) => byId(id).addEventListener("change", () => {
    find({ text: byId("text").value.trim(), ...read(byId(id)), k: PAGE });
  });
  onChange("without", (control) => ({ without: control.value.trim() }));
  onChange("vector", (control) => ({ vector: control.value }));
  onChange("hybrid", (control) => ({ hybrid: control.checked }));
  onChange("group", (control) => ({ group: control.checked }));
  onChange("weight", (control) => ({ weight: Number(control.value) }));
}

// On a phone, large parts of the page are shown on demand.
function connectToggle(button, part) {
  button.addEventListener("click", () => {
    button.setAttribute("aria-expanded", String(part.classList.toggle("open")));
  });
}

function removeExample() {
  byId("text").focus();
  return find({ image: "", like: "", likeName: "", k: PAGE });
}

function connectImages() {
  byId("file").addEventListener("change", () => {
    const [file] = byId("file").files;
    byId("file").value = ""; // so that the same file again is a change
    if (file) useImage(file);
  });
  addEventListener("paste", (event) => {
    const file = imageIn(event.clipboardData);
    if (!file) return;
    event.preventDefault();
    useImage(file);
  });
  addEventListener("dragover", (event) => {
    const types = [...(event.dataTransfer?.types ?? [])];
    if (!types.includes("Files")) return;
    event.preventDefault();
    byId("drop").hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) byId("drop").hidden = true;
  });
  addEventListener("drop", (event) => {
    byId("drop").hidden = true;
    const file = imageIn(event.dataTransfer);
    if (!file) return;
    event.preventDefault();
    useImage(file);
  });
}

// "/" and Escape move to the search box; Escape in the empty box removes the image or item.
function connectKeys() {
  addEventListener("keydown", (event) => {
    if (event.key === "/") onSlash(event);
    else if (event.key === "Escape" && !byId("key").open) onEscape(event);
  });
}

function onSlash(event) {
  const isControl = event.target.matches?.("input:not([type=checkbox], [type=range]), select");
  if (isControl || byId("key").open || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  byId("text").select();
  byId("text").focus();
}

function onEscape(event) {
  byId("drop").hidden = true;
  if (event.target !== byId("text")) {
    byId("text").focus();
    return;
  }
  const hasExample = Boolean(search.image || search.like);
  if (byId("text").value === "" && hasExample) removeExample();
}
