"use strict";
// Sorting and filtering. Without it the page is complete, the most expensive tenants first.
(() => {
  const words = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

  // Descending first for numbers. What has no value is last, whichever way.
  function sort(table, column, head) {
    const numeric = head.classList.contains("number");
    const before = head.getAttribute("aria-sort");
    const descending = before ? before === "ascending" : numeric;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const key = (row) => {
      const cell = row.cells[column];
      if (!numeric) return cell.textContent.trim();
      return cell.dataset.value ? Number(cell.dataset.value) : null;
    };
    const rows = Array.from(table.tBodies[0].rows, (row) => [key(row), row]);
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      const order = numeric ? a - b : words.compare(a, b);
      return descending ? -order : order;
    });
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }

  for (const table of document.querySelectorAll("table.sorts")) {
    Array.from(table.tHead.rows[0].cells).forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(table, column, head));
      head.append(button);
    });
  }

  const tools = document.getElementById("tools");
  if (!tools) return;
  const [text, state, shown] = ["text", "state", "shown"].map((name) => document.getElementById(name));
  const rows = Array.from(document.querySelectorAll("[data-state]"), (row) =>
    [row, row.querySelector(".tenant").textContent.toLowerCase()]);
  const all = document.querySelectorAll("#tenants [data-state]").length;

  function filter() {
    const wanted = text.value.trim().toLowerCase();
    let found = 0;
    for (const [row, name] of rows) {
      row.hidden = !name.includes(wanted) || (state.value !== "" && row.dataset.state !== state.value);
      if (!row.hidden && row.closest("#tenants")) found += 1;
    }
    shown.textContent = found === all ? "" : `${found} of ${all} tenants`;
  }

  text.addEventListener("input", filter);
  state.addEventListener("change", filter);
  tools.hidden = false;
  filter();
})();
