/* A click on a heading sorts a table inside .sortable by that column; the next click turns it round. */
document.addEventListener("DOMContentLoaded", () => {
  const number = (row, k) => {
    const text = row.cells[k].textContent.trim();
    return text === "" ? Infinity : Number(text.replaceAll(",", ""));
  };
  for (const heading of document.querySelectorAll(".sortable th")) {
    heading.addEventListener("click", () => {
      const body = heading.closest("table").tBodies[0], k = heading.cellIndex, rows = [...body.rows];
      const words = rows.some((row) => Number.isNaN(number(row, k)));
      const up = heading.getAttribute("aria-sort") !== "ascending";
      const order = (a, b) =>
        words ? a.cells[k].textContent.localeCompare(b.cells[k].textContent) : number(a, k) - number(b, k);
      rows.sort((a, b) => (up ? order(a, b) : order(b, a)));
      for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      body.append(...rows);
    });
  }
});
