// Filters for the store's fields: a list to tick for a few values, and a range for numbers.

const MAX_SHOWN = 8; // values of a list before "Show all"

// Builds a group of controls per field.
// onChange(field, wanted): called with every choice; wanted is [values], {low, high}, or null.
// Returns a function that sets all controls to a search's filters.
export function buildFilters(place, fields, onChange) {
  const setters = new Map();
  place.replaceChildren();
  for (const field of fields) {
    if (!field.choices && field.low == null) continue;
    if (field.low != null && field.low === field.high) continue;
    const group = element("fieldset");
    group.append(element("legend", titleCase(field.name)));
    const build = field.choices ? buildChoices : buildRange;
    setters.set(field.name, build(group, field, onChange));
    place.append(group);
  }
  return (filters) => setters.forEach((set, name) => set(filters[name]));
}

function buildChoices(group, field, onChange) {
  const boxes = field.choices.map((choice, index) => {
    const label = makeChoice(choice);
    label.hidden = index >= MAX_SHOWN;
    group.append(label);
    return label.querySelector("input");
  });
  for (const box of boxes) {
    box.addEventListener("change", () => {
      const checked = field.choices.filter((_, index) => boxes[index].checked);
      const wanted = checked.map((choice) => choice.value);
      onChange(field.name, wanted.length ? wanted : null);
    });
  }
  if (boxes.length > MAX_SHOWN) group.append(makeShowAll(boxes));
  return (wanted) => boxes.forEach((box, index) => {
    box.checked = Boolean(wanted?.includes(field.choices[index].value));
    if (box.checked) box.closest("label").hidden = false;
  });
}

function makeChoice(choice) {
  const box = element("input");
  box.type = "checkbox";
  const name = element("span", formatValue(choice.value), "value");
  name.title = formatValue(choice.value);
  const label = element("label", "", "check");
  label.append(box, name, element("span", choice.count.toLocaleString(), "count"));
  return label;
}

function makeShowAll(boxes) {
  const button = element("button", `Show all ${boxes.length}`, "plain link");
  button.type = "button";
  button.addEventListener("click", () => {
    boxes.forEach((box) => { box.closest("label").hidden = false; });
    button.remove();
    boxes[MAX_SHOWN].focus();
  });
  return button;
}

function buildRange(group, field, onChange) {
  const step = stepOf(field);
  const lowest = Math.floor(field.low / step) * step;
  const highest = Math.ceil(field.high / step) * step;
  const slider = element("div", "", "range");
  const ends = element("div", "", "ends");
  const low = makeEnd(field, "low", lowest, { lowest, highest, step });
  const high = makeEnd(field, "high", highest, { lowest, highest, step });
  slider.append(low.thumb, high.thumb);
  ends.append(low.number, element("span", "to", "quiet"), high.number);
  group.append(slider, ends);
  const controls = [low, high];

  const paint = () => {
    const share = (value) => `${(100 * (value - lowest)) / (highest - lowest)}%`;
    slider.style.setProperty("--from", share(low.thumb.valueAsNumber));
    slider.style.setProperty("--to", share(high.thumb.valueAsNumber));
  };
  const report = () => {
    const wanted = {};
    for (const { end, number } of controls) {
      if (number.value !== "") wanted[end] = number.valueAsNumber;
    }
    onChange(field.name, Object.keys(wanted).length ? wanted : null);
  };
  for (const { thumb, number, limit, end } of controls) {
    thumb.addEventListener("input", () => {
      // one thumb cannot pass the other
      const value = thumb.valueAsNumber;
      const bounded = end === "low"
        ? Math.min(value, high.thumb.valueAsNumber)
        : Math.max(value, low.thumb.valueAsNumber);
      thumb.value = String(bounded);
      number.value = thumb.valueAsNumber === limit ? "" : formatNumber(thumb.valueAsNumber);
      paint();
    });
    thumb.addEventListener("change", report);
    number.addEventListener("change", () => {
      thumb.value = number.value === "" ? String(limit) : number.value;
      paint();
      report();
    });
  }
  return (wanted) => {
    for (const { end, thumb, number, limit } of controls) {
      number.value = wanted?.[end] === undefined ? "" : formatNumber(wanted[end]);
      thumb.value = String(wanted?.[end] ?? limit);
    }
    paint();
  };
}

// One end of a range: a thumb on the slider, and a number.
function makeEnd(field, end, limit, { lowest, highest, step }) {
  const thumb = element("input");
  const number = element("input");
  thumb.type = "range";
  number.type = "number";
  number.placeholder = formatNumber(limit);
  number.inputMode = "decimal";
  const name = `${titleCase(field.name)}, ${end === "low" ? "at least" : "at most"}`;
  for (const control of [thumb, number]) {
    Object.assign(control, { min: String(lowest), max: String(highest), step: String(step) });
    control.setAttribute("aria-label", name);
  }
  number.step = "any";
  return { end, thumb, number, limit };
}

// Whole numbers in steps of 1; others in about 100 steps of 1, 2 or 5 times a power of ten.
function stepOf(field) {
  const rough = (field.high - field.low) / 100;
  if (field.type === "int") return Math.max(1, Math.round(rough));
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
}

// 15 digits are exact; more would be noise, such as 0.30000000000000004.
function formatNumber(value) {
  return String(Number(value.toPrecision(15)));
}

export function titleCase(name) {
  const words = name.replace(/[_.-]+/g, " ").trim() || name;
  return words.charAt(0).toUpperCase() + words.slice(1);
}

export function formatValue(value) {
  if (value === true) return "Yes";
  if (value === false) return "No";
  return String(value);
}

// Returns a description of each active filter, for a chip that removes it: [{field, value, text}].
// value null: all of the field.
export function describeFilters(filters) {
  return Object.entries(filters).flatMap(([field, wanted]) => {
    const name = titleCase(field);
    if (!Array.isArray(wanted)) {
      return [{ field, value: null, text: `${name}: ${describeRange(wanted)}` }];
    }
    return wanted.map((value) => ({ field, value, text: `${name}: ${formatValue(value)}` }));
  });
}

function describeRange({ low, high }) {
  if (low === undefined) return `up to ${formatNumber(high)}`;
  if (high === undefined) return `from ${formatNumber(low)}`;
  return `${formatNumber(low)} to ${formatNumber(high)}`;
}

export function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  if (className) made.className = className;
  return made;
}
