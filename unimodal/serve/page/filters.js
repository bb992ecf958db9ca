// Filters made of the store's fields: a list to tick for a few values, two ends for a number.

const SHOWN = 8; // values of a list, before "all of them" is asked for

// Builds a group of controls a field; `changed(field, wanted)` hears of every choice (wanted: [values], {low, high}, or null).
// -> a function that sets all controls to a search's filters.
export function buildFilters(place, fields, changed) {
  const setters = new Map();
  place.replaceChildren();
  for (const field of fields) {
    if (!field.choices && field.low == null) continue;
    if (field.low != null && field.low === field.high) continue;
    const group = element("fieldset");
    group.append(element("legend", titleOf(field.name)));
    const set = field.choices ? choiceList(group, field, changed) : rangeOf(group, field, changed);
    setters.set(field.name, set);
    place.append(group);
  }
  return (filters) => setters.forEach((set, name) => set(filters[name]));
}

function choiceList(group, field, changed) {
  const boxes = field.choices.map((choice, place) => {
    const box = element("input");
    box.type = "checkbox";
    const name = element("span", nameOf(choice.value), "value");
    name.title = nameOf(choice.value);
    const label = element("label", "", "check");
    label.append(box, name, element("span", choice.count.toLocaleString(), "count"));
    label.hidden = place >= SHOWN;
    group.append(label);
    box.addEventListener("change", () => {
      const wanted = field.choices.filter((_, other) => boxes[other].checked).map((one) => one.value);
      changed(field.name, wanted.length ? wanted : null);
    });
    return box;
  });
  if (boxes.length > SHOWN) {
    const all = element("button", `Show all ${boxes.length}`, "plain link");
    all.type = "button";
    all.addEventListener("click", () => {
      boxes.forEach((box) => { box.closest("label").hidden = false; });
      all.remove();
      boxes[SHOWN].focus();
    });
    group.append(all);
  }
  return (wanted) => boxes.forEach((box, place) => {
    box.checked = Boolean(wanted?.includes(field.choices[place].value));
    if (box.checked) box.closest("label").hidden = false;
  });
}

function rangeOf(group, field, changed) {
  const step = stepOf(field);
  const lowest = Math.floor(field.low / step) * step, highest = Math.ceil(field.high / step) * step;
  const slider = element("div", "", "range");
  const ends = element("div", "", "ends");
  const controls = ["low", "high"].map((end) => {
    const name = `${titleOf(field.name)}, ${end === "low" ? "at least" : "at most"}`;
    const [thumb, number] = [element("input"), element("input")];
    thumb.type = "range";
    number.type = "number";
    number.placeholder = shown(end === "low" ? lowest : highest);
    number.inputMode = "decimal";
    for (const control of [thumb, number]) {
      Object.assign(control, { min: String(lowest), max: String(highest), step: String(step) });
      control.setAttribute("aria-label", name);
    }
    number.step = "any";
    slider.append(thumb);
    ends.append(number);
    return { end, thumb, number, limit: end === "low" ? lowest : highest };
  });
  const [low, high] = controls;
  ends.insertBefore(element("span", "to", "quiet"), high.number);
  group.append(slider, ends);

  const paint = () => {
    const share = (value) => `${(100 * (value - lowest)) / (highest - lowest)}%`;
    slider.style.setProperty("--from", share(low.thumb.valueAsNumber));
    slider.style.setProperty("--to", share(high.thumb.valueAsNumber));
  };
  const tell = () => {
    const wanted = {};
    for (const { end, number } of controls) if (number.value !== "") wanted[end] = number.valueAsNumber;
    changed(field.name, Object.keys(wanted).length ? wanted : null);
  };
  for (const { thumb, number, limit, end } of controls) {
    thumb.addEventListener("input", () => {
      // One thumb cannot pass the other.
      if (end === "low") thumb.value = String(Math.min(thumb.valueAsNumber, high.thumb.valueAsNumber));
      else thumb.value = String(Math.max(thumb.valueAsNumber, low.thumb.valueAsNumber));
      number.value = thumb.valueAsNumber === limit ? "" : shown(thumb.valueAsNumber);
      paint();
    });
    thumb.addEventListener("change", tell);
    number.addEventListener("change", () => {
      thumb.value = number.value === "" ? String(limit) : number.value;
      paint();
      tell();
    });
  }
  return (wanted) => {
    for (const { end, thumb, number, limit } of controls) {
      number.value = wanted?.[end] === undefined ? "" : shown(wanted[end]);
      thumb.value = String(wanted?.[end] ?? limit);
    }
    paint();
  };
}

// Whole numbers in steps of 1; others in about a hundred steps of 1, 2 or 5 times a power of ten.
function stepOf(field) {
  const rough = (field.high - field.low) / 100;
  if (field.type === "int") return Math.max(1, Math.round(rough));
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find((times) => times * power >= rough * 0.999);
}

// 15 digits are what a number keeps; more would be noise, such as 0.30000000000000004.
function shown(value) {
  return String(Number(value.toPrecision(15)));
}

export function titleOf(name) {
  const words = name.replace(/[_.-]+/g, " ").trim() || name;
  return words.charAt(0).toUpperCase() + words.slice(1);
}

export function nameOf(value) {
  return value === true ? "Yes" : value === false ? "No" : String(value);
}

// -> what each filter in use says, for a chip that takes it away: [{field, value, text}]; value null: all of the field.
export function filterNames(filters) {
  return Object.entries(filters).flatMap(([field, wanted]) => {
    if (Array.isArray(wanted)) return wanted.map((value) => ({ field, value, text: `${titleOf(field)}: ${nameOf(value)}` }));
    const { low, high } = wanted;
    const text = low === undefined ? `up to ${shown(high)}` : high === undefined ? `from ${shown(low)}` : `${shown(low)} to ${shown(high)}`;
    return [{ field, value: null, text: `${titleOf(field)}: ${text}` }];
  });
}

export function element(tag, text = "", name = "") {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  if (name) made.className = name;
  return made;
}
