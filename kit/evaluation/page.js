// A click on a column's head sorts the table by it, and once more the other way round.
"use strict";

function value(row, column) {
  const text = row.cells[column].textContent.trim();
  const number = parseFloat(text.replace("−", "-"));
  return { text, number: Number.isNaN(number) ? null : number };
}

function compare(one, other, column) {
  const [first, second] = [value(one, column), value(other, column)];
  if (first.number !== null && second.number !== null) return first.number - second.number;
  if (first.number !== null || second.number !== null) return first.number === null ? 1 : -1;
  return first.text.localeCompare(second.text);
}

function sort(head) {
  const down = head.getAttribute("aria-sort") === "ascending";
  const body = head.closest("table").tBodies[0];
  const rows = [...body.rows].sort((one, other) => (down ? -1 : 1) * compare(one, other, head.cellIndex));
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  body.append(...rows);
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sort(button.closest("th")));
}
