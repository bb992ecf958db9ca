// What is searched for: one object, written into the address so that a link or the back button brings it back.

export const PAGE = 24; // hits at first, and with every "Show more"

export function emptySearch() {
  return {
    text: "", without: "", picture: "", like: "", likeName: "", weight: 50, vector: "", hybrid: false, group: false,
    filters: {}, // field -> [values], or {low, high}
    k: PAGE,
  };
}

// -> "?q=red+bag&is.category=Bags&from.price=10". A picture is too long for an address: it goes into the history's state.
export function toAddress(search) {
  const query = new URLSearchParams();
  if (search.text) query.set("q", search.text);
  if (search.without) query.set("without", search.without);
  if (search.like) query.set("like", search.like);
  if (search.weight !== 50) query.set("picture", String(search.weight));
  if (search.vector) query.set("by", search.vector);
  if (search.hybrid) query.set("exact", "1");
  if (search.group) query.set("one", "1");
  for (const [field, wanted] of Object.entries(search.filters)) {
    if (Array.isArray(wanted)) for (const value of wanted) query.append(`is.${field}`, String(value));
    else for (const [end, name] of [["low", "from"], ["high", "to"]]) {
      if (wanted[end] !== undefined) query.set(`${name}.${field}`, String(wanted[end]));
    }
  }
  const text = query.toString();
  return text ? `?${text}` : location.pathname;
}

// fields: those of the store, by name; what the address says of others is passed over.
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
    picture: saved?.picture ?? "",
    likeName: saved?.likeName ?? "",
    k: saved?.k ?? PAGE,
  };
  for (const [key, value] of query) {
    const [kind, name] = [key.slice(0, key.indexOf(".")), key.slice(key.indexOf(".") + 1)];
    const field = fields.get(name);
    if (kind === "is" && field?.choices) {
      (search.filters[name] ??= []).push(field.type === "bool" ? value === "true" : value);
    } else if ((kind === "from" || kind === "to") && field?.low != null && value !== "" && Number.isFinite(Number(value))) {
      (search.filters[name] ??= {})[kind === "from" ? "low" : "high"] = Number(value);
    }
  }
  return search;
}

// -> the body of /v1/search.
export function toBody(search, store) {
  const body = { k: Math.min(search.k, store.max_k), filters: search.filters };
  if (!isAsking(search)) return body; // what follows belongs to a query
  if (search.text) body.text = search.text;
  if (search.picture) body.image = search.picture;
  if (search.like) body.like = search.like;
  if (!isAsking(search)) return body; // the rest is about a query, and refused without one
  if (search.text && (search.picture || search.like)) body.weight = search.weight / 100;
  if (search.without) body.negatives = [search.without];
  if (search.vector && store.vectors.includes(search.vector)) body.vectors = [search.vector];
  if (search.hybrid && store.words && search.text) body.hybrid = true;
  if (search.group && store.parent) body.group_by = store.parent;
  return body;
}

export function isAsking(search) {
  return Boolean(search.text || search.picture || search.like);
}
