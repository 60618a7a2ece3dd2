"use strict";
// Sorts a table by a column: the first click in the column's own direction, the next reversed. Empty values come last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = Array.from(table.tHead.rows[0].cells);
  for (const head of heads) {
    head.querySelector("button").addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const down = before === null ? head.dataset.first === "descending" : before === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      sortRows(table.tBodies[0], head.cellIndex, down ? -1 : 1);
    });
  }
}

function sortRows(body, column, sign) {
  const rows = Array.from(body.rows, (row) => [row.cells[column].dataset.value, row]);
  rows.sort(([a], [b]) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    const difference = Number(a) - Number(b);
    return sign * (Number.isNaN(difference) ? a.localeCompare(b, "en", { numeric: true }) : difference);
  });
  body.append(...rows.map(([, row]) => row));
}
