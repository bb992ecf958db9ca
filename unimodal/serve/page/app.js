// The search page: what is asked for (state.js) goes to the server (api.js), what is found into the grid (results.js).

import { Problem, askJson } from "./api.js";
import { buildFilters, element, filterNames } from "./filters.js";
import { pictureIn, readPicture } from "./picture.js";
import { showHits, showPicture, showWaiting, titles, walkByArrows } from "./results.js";
import { PAGE, emptySearch, fromAddress, isAsking, toAddress, toBody } from "./state.js";

const at = (id) => document.getElementById(id);
let store = null; // what /v1/store says
let reading = null; // the promise of it
let readAt = 0; // when
const FRESH = 3000; // milliseconds that it is taken for fresh
let fields = new Map();
let search = emptySearch();
let setFilters = () => {};
let running = new AbortController();

connect();
restore();

// The store, however many wait for it; the address can be read only when its fields are known.
async function readStore() {
  if (store) return;
  try {
    await (reading ??= askJson("/v1/store").then(useStore));
  } finally {
    reading = null;
  }
}

function useStore(answer) {
  useFacts(answer);
  search = fromAddress(location.search, history.state, fields);
  at("catalogue").title = store.model ? `Searched with ${store.model}` : "";
  const seesPictures = store.modalities.includes("image");
  document.querySelector(".pick").hidden = !seesPictures;
  if (!seesPictures || matchMedia("(max-width: 560px)").matches) at("text").placeholder = "Describe it";
  if (store.count && !store.modalities.includes("text")) at("text").disabled = true;
  at("hybrid-choice").hidden = !store.words;
  at("group-choice").hidden = !store.parent;
  at("vector-choice").hidden = store.vectors.length < 2;
  const names = { text: "texts", image: "pictures", fused: "both at once" };
  for (const vector of store.vectors) at("vector").append(new Option(names[vector] ?? vector, vector));
}

// What changes while a store is written to: its count, and the values of its fields.
function useFacts(answer) {
  store = answer;
  readAt = Date.now();
  at("catalogue").textContent = `${store.count.toLocaleString()} items`;
  fields = new Map(store.fields.map((field) => [field.name, field]));
  setFilters = buildFilters(at("filters-body"), store.fields, (field, wanted) => {
    const filters = { ...search.filters };
    if (wanted) filters[field] = wanted;
    else delete filters[field];
    find({ filters, k: PAGE });
  });
  at("filters").hidden = !at("filters-body").children.length;
}

// The store's facts again, beside hits that are fresh; not while somebody is at the filters that would be built again.
async function followStore() {
  if (Date.now() - readAt < FRESH) return;
  readAt = Date.now();
  const answer = await askJson("/v1/store").catch(() => null); // the next search asks again
  if (!answer) return;
  const isSame = JSON.stringify(answer.fields) === JSON.stringify(store.fields);
  if (isSame || at("filters-body").contains(document.activeElement)) {
    at("catalogue").textContent = `${answer.count.toLocaleString()} items`;
    return;
  }
  useFacts(answer);
  setFilters(search.filters);
}

// What the address and the history say, shown and searched for.
async function restore() {
  showBusy();
  try {
    await readStore();
  } catch (error) {
    return showProblem(error);
  }
  search = fromAddress(location.search, history.state, fields);
  await run();
}

// A change of the search: a new entry of the history, then the results.
async function find(change) {
  showBusy();
  try {
    await readStore();
  } catch (error) {
    return showProblem(error, () => find(change));
  }
  search = { ...search, ...change };
  const saved = { picture: search.picture, likeName: search.likeName, k: search.k };
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
    const found = await askJson("/v1/search", { body: toBody(search, store), signal });
    showFound(found);
    followStore();
  } catch (error) {
    if (error.name !== "AbortError") showProblem(error);
  } finally {
    if (!signal.aborted) at("hits").setAttribute("aria-busy", "false");
  }
}

function showBusy() {
  at("trouble").hidden = at("empty").hidden = true;
  const hits = at("hits");
  hits.setAttribute("aria-busy", "true");
  if (!hits.querySelector(".hit")) showWaiting(hits, 12);
  at("status").textContent = "Searching …";
}

function showFound({ hits, took_ms: took }) {
  const asked = isAsking(search);
  showHits(at("hits"), hits, store, (hit, title) => {
    find({ like: hit.id, likeName: title, text: "", picture: "", k: PAGE });
    at("results").focus({ preventScroll: true });
    scrollTo({ top: 0 });
  });
  const items = `${hits.length} ${hits.length === 1 ? "item" : "items"}`;
  const time = `${(took.embed + took.search).toFixed(0)} ms`;
  const parts = took.embed >= 0.5 ? ` (${took.embed.toFixed(0)} to read the query, ${took.search.toFixed(0)} to search)` : "";
  const order = !asked ? " of the catalogue" : hits.length > 1 ? ", best first" : "";
  at("status").textContent = `${items}${order} · ${time}${parts}`;
  const empty = hits.length === 0;
  const filtered = Object.keys(search.filters).length > 0;
  at("empty").hidden = !empty;
  at("empty-why").textContent = filtered ? "No item passes these filters." : "There is nothing in this catalogue yet.";
  at("empty-clear").hidden = !filtered;
  at("more").hidden = hits.length < search.k || search.k >= store.max_k;
}

function showProblem(error, again = restore) {
  const known = error instanceof Problem;
  if (!known) console.error(error);
  at("hits").replaceChildren();
  at("hits").setAttribute("aria-busy", "false");
  at("status").textContent = "";
  at("more").hidden = at("empty").hidden = true;
  at("trouble").querySelector("h2").textContent = known ? error.title : "Something went wrong on this page";
  at("trouble").querySelector("p").textContent = known ? error.message : "Load it again, please.";
  at("again").textContent = error.way ?? "Try again";
  at("again").onclick = again;
  at("trouble").hidden = false;
}

// All controls say what is searched for.
function showSearch() {
  at("text").value = search.text;
  at("without").value = search.without;
  at("weight").value = String(search.weight);
  showWeight();
  at("vector").value = search.vector;
  at("hybrid").checked = search.hybrid;
  at("group").checked = search.group;
  showExample();
  setFilters(search.filters);
  const names = filterNames(search.filters);
  at("filters-count").textContent = String(names.length);
  at("filters-count").hidden = names.length === 0;
  at("chosen").replaceChildren(...names.map(chip));
  document.body.classList.toggle("asking", isAsking(search));
  allowOptions();
  const what = search.text || search.likeName || (search.picture ? "a picture" : "");
  document.title = what ? `${what} – search` : "Search by words and pictures";
}

// What belongs to a query waits for one.
function allowOptions() {
  const asks = isAsking({ ...search, text: at("text").value.trim() });
  for (const id of ["without", "vector", "hybrid", "group"]) at(id).disabled = !asks;
}

function chip({ field, value, text }) {
  const button = element("button", text, "chip");
  button.type = "button";
  button.setAttribute("aria-label", `Remove the filter ${text}`);
  button.addEventListener("click", () => {
    const filters = { ...search.filters };
    const left = value === null ? [] : filters[field].filter((one) => one !== value);
    if (left.length) filters[field] = left;
    else delete filters[field];
    find({ filters, k: PAGE });
  });
  const item = element("li");
  item.append(button);
  return item;
}

// The picture, or the item, that is searched with.
function showExample() {
  const picture = at("example-picture");
  at("example").hidden = !(search.picture || search.like);
  at("mix").hidden = !(search.text && (search.picture || search.like));
  at("weight-of").textContent = search.like ? "This item" : "Picture";
  at("example-name").textContent = search.like ? `like ${search.likeName || search.like}` : "";
  at("example-name").title = search.likeName || search.like;
  picture.hidden = !search.picture && !search.like;
  if (search.picture) picture.src = search.picture;
  else if (search.like) showItem(picture, search.like);
  else picture.removeAttribute("src");
}

async function showItem(picture, id) {
  try {
    const item = await askJson(`/v1/items/${encodeURIComponent(id)}`);
    if (search.like !== id) return;
    at("example-name").textContent = `like ${titles(store)(item)}`;
    if (item.thumbnail) await showPicture(picture, item.thumbnail);
    else picture.hidden = true;
  } catch {
    picture.hidden = true; // the search itself says what is wrong
  }
}

function showWeight() {
  const share = Number(at("weight").value);
  at("weight-shown").textContent = `${100 - share} : ${share}`;
  at("weight").setAttribute("aria-valuetext", `${100 - share} parts words, ${share} parts ${search.like ? "this item" : "picture"}`);
}

async function usePicture(file) {
  try {
    const picture = await readPicture(file);
    await find({ picture, like: "", likeName: "", text: at("text").value.trim(), k: PAGE });
  } catch (error) {
    showProblem(error);
  }
}

function connect() {
  at("search").addEventListener("submit", (event) => {
    event.preventDefault();
    find({ text: at("text").value.trim(), without: at("without").value.trim(), k: PAGE });
  });
  at("text").addEventListener("search", () => {
    if (!at("text").value && search.text) find({ text: "", k: PAGE }); // the field's own cross
  });
  at("text").addEventListener("input", allowOptions);
  const choose = (change) => find({ text: at("text").value.trim(), ...change, k: PAGE });
  at("without").addEventListener("change", () => choose({ without: at("without").value.trim() }));
  at("vector").addEventListener("change", () => choose({ vector: at("vector").value }));
  at("hybrid").addEventListener("change", () => choose({ hybrid: at("hybrid").checked }));
  at("group").addEventListener("change", () => choose({ group: at("group").checked }));
  at("weight").addEventListener("input", showWeight);
  at("weight").addEventListener("change", () => choose({ weight: Number(at("weight").value) }));
  at("example-remove").addEventListener("click", removeExample);
  at("more").addEventListener("click", () => find({ k: search.k + PAGE }));
  at("empty-clear").addEventListener("click", () => find({ filters: {}, k: PAGE }));
  at("key-cancel").addEventListener("click", () => at("key").close("cancel")); // no submit button: Enter means the other
  opens(at("filters-toggle"), at("filters-body"));
  opens(at("options-toggle"), at("options"));
  addEventListener("popstate", restore);
  walkByArrows(at("hits"));
  connectPictures();
  connectKeys();
}

// On a phone, what takes room is shown on demand.
function opens(button, part) {
  button.addEventListener("click", () => {
    button.setAttribute("aria-expanded", String(part.classList.toggle("open")));
  });
}

function removeExample() {
  at("text").focus();
  return find({ picture: "", like: "", likeName: "", k: PAGE });
}

function connectPictures() {
  at("file").addEventListener("change", () => {
    const [file] = at("file").files;
    at("file").value = ""; // the same file again is a change too
    if (file) usePicture(file);
  });
  addEventListener("paste", (event) => {
    const file = pictureIn(event.clipboardData);
    if (!file) return;
    event.preventDefault();
    usePicture(file);
  });
  const holdsFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  addEventListener("dragover", (event) => {
    if (!holdsFile(event)) return;
    event.preventDefault();
    at("drop").hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) at("drop").hidden = true;
  });
  addEventListener("drop", (event) => {
    at("drop").hidden = true;
    const file = pictureIn(event.dataTransfer);
    if (!file) return;
    event.preventDefault();
    usePicture(file);
  });
}

// "/" goes to the search box. Escape there empties it; from anywhere else it goes there.
function connectKeys() {
  addEventListener("keydown", (event) => {
    const typing = event.target.matches?.("input:not([type=checkbox], [type=range]), select") || at("key").open;
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      at("text").select();
      at("text").focus();
    } else if (event.key === "Escape" && !at("key").open) {
      at("drop").hidden = true;
      if (event.target === at("text") && at("text").value === "" && (search.picture || search.like)) removeExample();
      else if (event.target !== at("text")) at("text").focus();
    }
  });
}
