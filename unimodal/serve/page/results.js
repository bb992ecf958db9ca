// The grid of what was found. Everything of the catalogue is set as text, never as HTML.

import { ask, hasKey } from "./api.js";
import { nameOf, titleOf } from "./filters.js";

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
  const best = Math.max(...hits.map((hit) => hit.score ?? 0), 1e-9);
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
  item.querySelector(".facts").textContent = facts(hit, title, store).join(" · ");
  const frame = item.querySelector(".frame");
  const picture = item.querySelector("img");
  picture.addEventListener("load", () => frame.classList.add("loaded"));
  picture.addEventListener("error", () => picture.remove());
  if (hit.thumbnail) showPicture(picture, hit.thumbnail);
  else picture.remove();
  if (hit.score === null) {
    item.querySelector(".score").remove();
  } else {
    item.querySelector(".badge").textContent = KINDS[hit.vector] ?? hit.vector;
    item.querySelector(".meter i").style.width = `${Math.max(0, Math.min(1, hit.score / best)) * 100}%`;
    item.querySelector(".number").textContent = hit.score.toFixed(Math.abs(hit.score) < 0.1 ? 4 : 3);
  }
  const score = hit.score === null ? "" : `, score ${hit.score.toFixed(3)} by ${KINDS[hit.vector] ?? hit.vector}`;
  button.setAttribute("aria-label", `${title}${score}. More like this.`);
  return item;
}

// A price first, then other numbers and choices; what the title already says is left out.
function facts(hit, title, store) {
  const said = [];
  const isPrice = (field) => /price/i.test(field.name);
  for (const field of [...store.fields].sort((left, right) => isPrice(right) - isPrice(left))) {
    const value = hit.fields?.[field.name];
    if (said.length === FACTS || value == null || value === "" || value === title) continue;
    if (field.low != null && typeof value === "number") {
      said.push(isPrice(field) ? value.toFixed(2) : `${titleOf(field.name)} ${value.toLocaleString()}`);
    } else if (field.choices && field.type === "bool") {
      if (value) said.push(titleOf(field.name));
    } else if (field.choices) {
      said.push(nameOf(Array.isArray(value) ? value[0] ?? "" : value));
    }
  }
  return said;
}

// An <img> sends no key: with one, its bytes are asked for here.
export async function showPicture(picture, path) {
  if (!hasKey()) {
    picture.src = new URL(path.replace(/^\//, ""), document.baseURI);
    return;
  }
  try {
    const address = URL.createObjectURL(await (await ask(path)).blob());
    loaded.push(address);
    picture.src = address;
  } catch {
    picture.remove();
  }
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
