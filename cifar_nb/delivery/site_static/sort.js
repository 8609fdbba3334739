// The head of a table of class "sortable", clicked or with Enter or Space on it, sorts its rows:
// numbers as numbers, else text.
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
    const sort = (head, i) => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      const text = (row) => row.cells[i].textContent.trim();
      const number = (s) => parseFloat(s.replace(/,/g, ""));
      const rows = [...body.rows].sort((a, b) => {
        const [s, t] = [text(a), text(b)], [x, y] = [number(s), number(t)];
        const order = isNaN(x) || isNaN(y) ? s.localeCompare(t) : x - y;
        return up ? order : -order;
      });
      heads.forEach((h) => h.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      body.append(...rows);
    };
    heads.forEach((head, i) => {
      head.tabIndex = 0;
      head.addEventListener("click", () => sort(head, i));
      head.addEventListener("keydown", (e) => {
        if (e.key !== "Enter" && e.key !== " ") return;
        e.preventDefault();  // Space would scroll
        sort(head, i);
      });
    });
  }
});
