// Headings that sort their table, a field that filters, and links into what is folded away.
for (const table of document.querySelectorAll("table.sortable")) {
  const collator = new Intl.Collator(undefined, { numeric: true });
  const rows = [...table.tBodies[0].rows];
  const headings = [...table.tHead.rows[0].cells];
  const valueOf = (row, column) => row.cells[column]?.dataset.value ?? row.cells[column]?.textContent.trim() ?? "";
  const compare = (a, b) => isNaN(a) || isNaN(b) ? collator.compare(a, b) : a - b;
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const first = heading.dataset.first ?? "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = heading.ariaSort === first ? other : first;
      headings.forEach((each) => { each.ariaSort = each === heading ? order : null; });
      const sign = order === "ascending" ? 1 : -1;
      // Cells without a value come last in either order; sorting is stable.
      const known = rows.filter((row) => valueOf(row, column) !== "");
      const unknown = rows.filter((row) => valueOf(row, column) === "");
      known.sort((a, b) => sign * compare(valueOf(a, column), valueOf(b, column)));
      table.tBodies[0].append(...known, ...unknown);
    });
  });
}
for (const field of document.querySelectorAll("input[type=search]")) {
  field.closest("label").hidden = false;
  field.addEventListener("input", () => {
    const words = field.value.trim().toLowerCase().split(/\s+/);
    for (const each of document.querySelectorAll("[data-words]")) {
      each.hidden = !words.every((word) => each.dataset.words.toLowerCase().includes(word));
    }
  });
}
const reveal = () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) target.open = true;
};
addEventListener("hashchange", reveal);
reveal();
