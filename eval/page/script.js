"use strict";
// Tables sort by a column at a click or a key on its head: numbers by value, missing ones last, words by the alphabet.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const original = [...body.rows];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
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
