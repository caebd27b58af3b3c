// Sort a table by the column whose heading is pressed; rows without a value stay at the end.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const first = heading.dataset.first || "descending";
      const other = first === "descending" ? "ascending" : "descending";
      const order = heading.getAttribute("aria-sort") === first ? other : first;
      headings.forEach((h) => h.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", order);
      const body = table.tBodies[0];
      const normalised = table.classList.contains("show-normalised");
      const value = (row) => {
        const data = row.cells[column].dataset;
        return normalised && "normalised" in data ? data.normalised : data.value;
      };
      const compare = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        const numeric = !Number.isNaN(Number(x)) && !Number.isNaN(Number(y));
        const difference = numeric ? Number(x) - Number(y) : x.localeCompare(y);
        return order === "ascending" ? difference : -difference;
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
}

for (const choice of document.querySelectorAll("input[name=scale]")) {
  choice.addEventListener("change", () =>
    document.getElementById("games").classList.toggle("show-normalised", choice.value === "normalised" && choice.checked));
}
