// The search as one object. It is written into the address, so that links and the back button work.

export const PAGE = 24; // hits at first, and with every "Show more"

export function emptySearch() {
  return {
    text: "",
    without: "",
    image: "", // a data URI
    like: "", // an item's id
    likeName: "",
    weight: 50, // percent of the image, or of the item
    vector: "",
    hybrid: false,
    group: false,
    filters: {}, // field -> [values], or {low, high}
    k: PAGE,
  };
}

// Returns an address such as "?q=red+bag&is.category=Bags&from.price=10". An image is too long for
// it, and is kept in the history's state.
export function toAddress(search) {
  const query = new URLSearchParams();
  if (search.text) query.set("q", search.text);
  if (search.without) query.set("without", search.without);
  if (search.like) query.set("like", search.like);
  // "picture" in the addresses of existing links
  if (search.weight !== 50) query.set("picture", String(search.weight));
  if (search.vector) query.set("by", search.vector);
  if (search.hybrid) query.set("exact", "1");
  if (search.group) query.set("one", "1");
  for (const [field, wanted] of Object.entries(search.filters)) addFilter(query, field, wanted);
  const text = query.toString();
  return text ? `?${text}` : location.pathname;
}

function addFilter(query, field, wanted) {
  if (Array.isArray(wanted)) {
    for (const value of wanted) query.append(`is.${field}`, String(value));
    return;
  }
  if (wanted.low !== undefined) query.set(`from.${field}`, String(wanted.low));
  if (wanted.high !== undefined) query.set(`to.${field}`, String(wanted.high));
}

// fields: those of the store, by name; filters of other fields are skipped.
export function fromAddress(address, saved, fields) {
  const query = new URLSearchParams(address);
  const weight = Number(query.get("picture") ?? 50);
  const search = {
    ...emptySearch(),
    text: query.get("q") ?? "",
    without: query.get("without") ?? "",
    like: query.get("like") ?? "",
    vector: query.get("by") ?? "",
    hybrid: query.get("exact") === "1",
    group: query.get("one") === "1",
    weight: weight >= 0 && weight <= 100 ? weight : 50,
    image: saved?.image ?? "",
    likeName: saved?.likeName ?? "",
    k: saved?.k ?? PAGE,
  };
  for (const [key, value] of query) readFilter(search.filters, key, value, fields);
  return search;
}

function readFilter(filters, key, value, fields) {
  const dot = key.indexOf(".");
  const kind = key.slice(0, dot);
  const name = key.slice(dot + 1);
  const field = fields.get(name);
  if (kind === "is" && field?.choices) {
    filters[name] ??= [];
    filters[name].push(field.type === "bool" ? value === "true" : value);
    return;
  }
  const end = { from: "low", to: "high" }[kind];
  const isNumber = value !== "" && Number.isFinite(Number(value));
  if (end && field?.low != null && isNumber) {
    filters[name] ??= {};
    filters[name][end] = Number(value);
  }
}

// Returns the body of /v1/search.
export function toBody(search, store) {
  const body = { k: Math.min(search.k, store.max_k), filters: search.filters };
  if (!isQuery(search)) return body; // the other keys are refused without a query
  const hasExample = Boolean(search.image || search.like);
  if (search.text) body.text = search.text;
  if (search.image) body.image = search.image;
  if (search.like) body.like = search.like;
  if (search.text && hasExample) body.weight = search.weight / 100;
  if (search.without) body.negatives = [search.without];
  if (search.vector && store.vectors.includes(search.vector)) body.vectors = [search.vector];
  if (search.hybrid && store.words && search.text) body.hybrid = true;
  if (search.group && store.parent) body.group_by = store.parent;
  return body;
}

// Whether a search looks for something, beyond its filters.
export function isQuery(search) {
  return Boolean(search.text || search.image || search.like);
}
