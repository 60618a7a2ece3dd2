// Keeps the order of the tables of a page that is renewed, and says so if it no longer is.
const age = document.getElementById("age");
setInterval(() => {
  age.hidden = Date.now() / 1000 - Number(age.dataset.written) < 3 * Number(age.dataset.every) + 30;
}, 1000);

for (const table of document.querySelectorAll("table.sortable")) {
  const key = `${location.pathname}#${table.id}`;
  const [column, order] = (sessionStorage.getItem(key) ?? "").split(" ");
  const head = column ? table.tHead.rows[0].cells[Number(column)] : undefined;
  for (let tries = 0; head && tries < 2 && head.getAttribute("aria-sort") !== order; tries += 1) {
    head.querySelector("button").click();
  }
  table.tHead.addEventListener("click", () => {
    const sorted = table.tHead.querySelector("[aria-sort]");
    if (sorted) sessionStorage.setItem(key, `${sorted.cellIndex} ${sorted.getAttribute("aria-sort")}`);
  });
}
