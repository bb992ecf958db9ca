// The grid of what was found. Everything of the catalogue is set as text, never as HTML.

import { ask, hasKey } from "./api.js";
import { element, nameOf, titleOf } from "./filters.js";

const TITLES = ["title", "name", "product_name", "product", "label", "caption"];
const FACTS = 3;
const KINDS = { text: "text", image: "picture", fused: "picture + text", words: "exact words" };
let loaded = []; // object URLs of the pictures that are shown

// -> a function item -> its title: the field that is called so, else the first text that is no choice, else the id.
export function titles(store) {
  const texts = store.fields.filter((field) => field.type === "string" && field.name !== store.parent);
  const field = TITLES.map((name) => texts.find((one) => one.name.toLowerCase() === name)).find(Boolean)
    ?? texts.find((one) => !one.choices);
  return (item) => String(item.fields?.[field?.name] || item.id);
}

export function showHits(place, hits, store, chosen) {
  const title = titles(store);
  const best = Math.max(...hits.map((hit) => hit.cosine ?? hit.score ?? 0), 1e-9);
  loaded.forEach((address) => URL.revokeObjectURL(address));
  loaded = [];
  place.replaceChildren(...hits.map((hit) => card(hit, title(hit), store, best, chosen)));
}

function card(hit, title, store, best, chosen) {
  const item = document.getElementById("hit").content.cloneNode(true).firstElementChild;
  const button = item.querySelector("button");
  button.addEventListener("click", () => chosen(hit, title));
  item.querySelector(".title").textContent = title;
  item.querySelector(".title").title = title;
  item.querySelector(".letter").textContent = [...title.trim()][0]?.toUpperCase() ?? "?";
  item.querySelector(".facts").append(...facts(hit, title, store));
  const frame = item.querySelector(".frame");
  const picture = item.querySelector("img");
  picture.addEventListener("load", () => frame.classList.add("loaded"));
  picture.addEventListener("error", () => picture.remove());
  if (hit.thumbnail) showPicture(picture, hit.thumbnail).catch(() => picture.remove());
  else picture.remove();
  const kind = KINDS[hit.vector] ?? hit.vector;
  const similarity = hit.cosine ?? hit.score; // what the list is ordered by may be a rank's score, which says little
  if (hit.score === null) {
    item.querySelector(".score").remove();
  } else {
    item.querySelector(".badge").textContent = kind;
    item.querySelector(".meter i").style.width = `${Math.max(0, Math.min(1, similarity / best)) * 100}%`;
    item.querySelector(".number").textContent = similarity.toFixed(Math.abs(similarity) < 0.1 ? 4 : 3);
  }
  const score = hit.score === null ? "" : `, similarity ${similarity.toFixed(2)} by ${kind}`;
  button.setAttribute("aria-label", `${title}${score}. More like this.`);
  return item;
}

// A price first, then other numbers and choices; what the title already says is left out. -> elements
function facts(hit, title, store) {
  const made = [];
  const isPrice = (field) => /price/i.test(field.name) && field.low != null;
  for (const field of [...store.fields].sort((left, right) => isPrice(right) - isPrice(left))) {
    const value = hit.fields?.[field.name];
    if (made.length === FACTS || value == null || value === "" || value === title) continue;
    if (isPrice(field)) made.push(element("b", value.toFixed(2)));
    else if (field.low != null) made.push(element("span", `${titleOf(field.name)} ${value.toLocaleString()}`));
    else if (field.type === "bool") made.push(...(value ? [element("span", titleOf(field.name))] : []));
    else if (field.choices) made.push(element("span", lastOf(nameOf(Array.isArray(value) ? value[0] ?? "" : value))));
  }
  if (hit.more > 0) made.push(element("span", `+${hit.more} more`));
  return made.filter((one) => one.textContent);
}

// The leaf of a path of categories: "Men/Tops/Hoodies" is Hoodies, "24/7" stays.
function lastOf(value) {
  return /^[^/]{2,}(\/[^/]{2,})+$/.test(value) ? value.slice(value.lastIndexOf("/") + 1) : value;
}

// An <img> sends no key: with one, its bytes are asked for here.
export async function showPicture(picture, path) {
  if (!hasKey()) {
    picture.src = new URL(path.replace(/^\//, ""), document.baseURI);
    return;
  }
  const address = URL.createObjectURL(await (await ask(path)).blob());
  loaded.push(address);
  picture.src = address;
}

export function showWaiting(place, count) {
  place.replaceChildren(...Array.from({ length: count }, () => {
    const item = document.createElement("li");
    item.className = "waiting";
    item.setAttribute("aria-hidden", "true");
    return item;
  }));
}

// Arrow keys walk over the grid; the columns are counted from where the cards stand.
export function walkByArrows(place) {
  place.addEventListener("keydown", (event) => {
    const cards = [...place.querySelectorAll(".hit")];
    const at = cards.indexOf(document.activeElement);
    if (at < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    const top = (card) => Math.round(card.getBoundingClientRect().top);
    const columns = cards.filter((one) => top(one) === top(cards[0])).length;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -at, End: cards.length - 1 - at };
    const next = cards[at + steps[event.key]];
    if (!(event.key in steps) || !next) return;
    event.preventDefault();
    next.focus();
  });
}
