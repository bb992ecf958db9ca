// The grid of results. Everything from the catalogue is set as text, never as HTML.

import { hasKey, request } from "./api.js";
import { element, formatValue, titleCase } from "./filters.js";

const TITLES = ["title", "name", "product_name", "product", "label", "caption"];
const MAX_FACTS = 3;
const VECTOR_NAMES = {
  text: "text",
  image: "image",
  fused: "image + text",
  words: "exact words",
};
let objectUrls = []; // of the images that are shown

// Returns a function item -> its title: the field with such a name, otherwise the first text that
// is not a list to choose from, otherwise the id.
export function makeTitles(store) {
  const isText = (field) => field.type === "string" && field.name !== store.parent;
  const texts = store.fields.filter(isText);
  const named = TITLES.map((title) => texts.find((field) => field.name.toLowerCase() === title));
  const field = named.find(Boolean) ?? texts.find((text) => !text.choices);
  return (item) => String(item.fields?.[field?.name] || item.id);
}

export function showHits(grid, hits, store, onChoose) {
  const titleOf = makeTitles(store);
  const best = Math.max(...hits.map((hit) => hit.cosine ?? hit.score ?? 0), 1e-9);
  objectUrls.forEach((address) => URL.revokeObjectURL(address));
  objectUrls = [];
  grid.replaceChildren(...hits.map((hit) => makeCard(hit, titleOf(hit), store, best, onChoose)));
}

function makeCard(hit, title, store, best, onChoose) {
  const item = document.getElementById("hit").content.cloneNode(true).firstElementChild;
  const button = item.querySelector("button");
  button.addEventListener("click", () => onChoose(hit, title));
  item.querySelector(".title").textContent = title;
  item.querySelector(".title").title = title;
  item.querySelector(".letter").textContent = [...title.trim()][0]?.toUpperCase() ?? "?";
  item.querySelector(".facts").append(...makeFacts(hit, title, store));
  fillFrame(item, hit);
  const score = fillScore(item, hit, best);
  button.setAttribute("aria-label", `${title}${score}. More like this.`);
  return item;
}

function fillFrame(item, hit) {
  const frame = item.querySelector(".frame");
  const image = item.querySelector("img");
  image.addEventListener("load", () => frame.classList.add("loaded"));
  image.addEventListener("error", () => image.remove());
  if (hit.thumbnail) showImage(image, hit.thumbnail).catch(() => image.remove());
  else image.remove();
}

// Returns the score in words, for screen readers.
function fillScore(item, hit, best) {
  if (hit.score === null) {
    item.querySelector(".score").remove();
    return "";
  }
  const kind = VECTOR_NAMES[hit.vector] ?? hit.vector;
  // the score that orders the list may be a fused rank, which means little
  const similarity = hit.cosine ?? hit.score;
  const share = Math.max(0, Math.min(1, similarity / best));
  item.querySelector(".badge").textContent = kind;
  item.querySelector(".meter i").style.width = `${100 * share}%`;
  const digits = Math.abs(similarity) < 0.1 ? 4 : 3;
  item.querySelector(".number").textContent = similarity.toFixed(digits);
  return `, similarity ${similarity.toFixed(2)} by ${kind}`;
}

// Returns elements: the price first, then other numbers and choices, without what the title says.
function makeFacts(hit, title, store) {
  const facts = [];
  const isPrice = (field) => /price/i.test(field.name) && field.low != null;
  const fields = [...store.fields].sort((left, right) => isPrice(right) - isPrice(left));
  for (const field of fields) {
    if (facts.length === MAX_FACTS) break;
    const value = hit.fields?.[field.name];
    if (value == null || value === "" || value === title) continue;
    const fact = isPrice(field) ? element("b", value.toFixed(2)) : makeFact(field, value);
    if (fact) facts.push(fact);
  }
  if (hit.more > 0) facts.push(element("span", `+${hit.more} more`));
  return facts.filter((fact) => fact.textContent);
}

function makeFact(field, value) {
  const name = titleCase(field.name);
  if (field.low != null) return element("span", `${name} ${value.toLocaleString()}`);
  if (field.type === "bool") return value ? element("span", name) : null;
  if (!field.choices) return null;
  const first = Array.isArray(value) ? value[0] ?? "" : value;
  return element("span", lastCategory(formatValue(first)));
}

// The last part of a path of categories: "Men/Tops/Hoodies" is Hoodies, "24/7" stays.
function lastCategory(value) {
  const isPath = /^[^/]{2,}(\/[^/]{2,})+$/.test(value);
  return isPath ? value.slice(value.lastIndexOf("/") + 1) : value;
}

// An <img> sends no API key: with a key, its bytes are requested here.
export async function showImage(image, path) {
  if (!hasKey()) {
    image.src = new URL(path.replace(/^\//, ""), document.baseURI);
    return;
  }
  const response = await request(path);
  const address = URL.createObjectURL(await response.blob());
  objectUrls.push(address);
  image.src = address;
}

export function showPlaceholders(grid, count) {
  const placeholders = Array.from({ length: count }, () => {
    const item = element("li", "", "waiting");
    item.setAttribute("aria-hidden", "true");
    return item;
  });
  grid.replaceChildren(...placeholders);
}

// Arrow keys move over the grid. Its columns are counted by `offsetTop`, which is the position in the
// layout: a focused card is lifted by a transform, and getBoundingClientRect would include that.
export function moveByArrows(grid) {
  grid.addEventListener("keydown", (event) => {
    const cards = [...grid.querySelectorAll(".hit")];
    const current = cards.indexOf(document.activeElement);
    if (current < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    const top = (card) => card.closest("li").offsetTop;
    const columns = cards.filter((card) => top(card) === top(cards[0])).length;
    const steps = {
      ArrowRight: 1,
      ArrowLeft: -1,
      ArrowDown: columns,
      ArrowUp: -columns,
      Home: -current,
      End: cards.length - 1 - current,
    };
    const next = cards[current + steps[event.key]];
    if (!(event.key in steps) || !next) return;
    event.preventDefault();
    next.focus();
  });
}
