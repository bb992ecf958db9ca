"use strict";
// Tables sort by a column at a click or a key on its head: numbers by value, missing ones last, words by the alphabet.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const original = [...body.rows];
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
    const isNumber = head.classList.contains("number");
    const now = head.getAttribute("aria-sort");
    const [first, second] = isNumber ? ["descending", "ascending"] : ["ascending", "descending"];
    const next = now === first ? second : now === second ? null : first;
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    if (next) head.setAttribute("aria-sort", next);
    const sign = next === "descending" ? -1 : 1;
    const key = (row) => row.cells[column].dataset.value;
    const rows = !next ? original : [...original].sort((a, b) => {
      if (!isNumber) return sign * a.cells[column].textContent.localeCompare(b.cells[column].textContent);
      const [x, y] = [key(a), key(b)];
      return x === undefined ? (y === undefined ? 0 : 1) : y === undefined ? -1 : sign * (x - y);
    });
    body.append(...rows);
  }));
}

// A map shows what lies nearest to the pointer, or to where the arrow keys have led, with lines to what belongs to it.
const FAR = 24;
for (const figure of document.querySelectorAll("figure.map")) {
  const points = JSON.parse(figure.querySelector("script").textContent);
  const svg = figure.querySelector("svg");
  const [tip, lines, ring] = [".tip", ".mates", ".here"].map((name) => figure.querySelector(name));
  const isHidden = (point) => figure.classList.contains(point[2] ? "without-image" : "without-text");
  let current = -1;
  const show = (number) => {
    current = number;
    lines.replaceChildren();
    tip.replaceChildren();
    tip.hidden = number < 0;
    if (number < 0) { ring.setAttribute("cx", -20); return; }
    const [x, y, , label, thumbnail, mates] = points[number];
    ring.setAttribute("cx", x);
    ring.setAttribute("cy", y);
    for (const mate of mates.map((other) => points[other]).filter((other) => !isHidden(other))) {
      const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
      Object.entries({ x1: x, y1: y, x2: mate[0], y2: mate[1] }).forEach(([key, at]) => line.setAttribute(key, at));
      lines.append(line);
    }
    const shown = [points[number], ...mates.slice(0, 2).map((other) => points[other])];
    shown.forEach((point, place) => {
      const part = document.createElement("div");
      if (place) part.className = "mate";
      if (point[4]) {
        const image = document.createElement("img");
        image.src = point[4];
        image.alt = "";
        part.append(image);
      }
      part.append(point[3]);
      tip.append(part);
    });
    const [frame, inner] = [figure, svg].map((element) => element.getBoundingClientRect());
    const scale = inner.width / svg.viewBox.baseVal.width;
    const left = Math.min(inner.left - frame.left + x * scale + 14, frame.width - tip.offsetWidth - 8);
    const below = inner.top - frame.top + y * scale + 14;
    const top = below + tip.offsetHeight < frame.height ? below : below - 28 - tip.offsetHeight;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${Math.max(8, top)}px`;
  };
  svg.addEventListener("pointermove", (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    let [nearest, distance] = [-1, FAR];
    points.forEach((point, number) => {
      const away = Math.hypot(point[0] - at.x, point[1] - at.y);
      if (away < distance && !isHidden(point)) [nearest, distance] = [number, away];
    });
    if (nearest !== current) show(nearest);
  });
  svg.addEventListener("pointerleave", () => show(-1));
  svg.addEventListener("blur", () => show(-1));
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") show(-1);
    if (!step || !points.some((point) => !isHidden(point))) return;
    event.preventDefault();
    let next = current < 0 && step < 0 ? 0 : current;
    do next = (next + step + points.length) % points.length; while (isHidden(points[next]));
    show(next);
  });
  for (const button of figure.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const isOff = figure.classList.toggle(`without-${button.dataset.kind}`);
      button.setAttribute("aria-pressed", String(!isOff));
      show(-1);
    });
  }
}
