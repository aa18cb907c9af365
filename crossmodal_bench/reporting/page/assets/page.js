"use strict";
/* Sorting, filters, a row's details and copying. Without this script the page shows the same as plain tables. */
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const filters = document.querySelector("form.filters");
  const FILTERED = ["preset", "kind", "features"];

  /* ---- sorting ---- */

  const tables = all("table.rows").map((table) => ({
    table,
    key: table.dataset.sort,
    body: table.tBodies[0],
    rows: [...table.tBodies[0].rows],
    headers: all("thead th[data-key]", table),
  }));

  function makeSortable({ key, headers }) {
    for (const header of headers) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => {
        const [column, order] = getState(key).split(":");
        const name = header.dataset.key;
        const first = header.classList.contains("text") ? "up" : "down";
        const second = first === "up" ? "down" : "up";
        // A third click restores the report's order.
        const next = column !== name ? first : order === first ? second : "";
        setState(key, next && `${name}:${next}`);
      });
    }
  }

  function sort({ table, key, body, rows, headers }) {
    const [name, order] = getState(key).split(":");
    const header = headers.find((each) => each.dataset.key === name);
    for (const each of headers) {
      each.removeAttribute("aria-sort");
      if (each === header) each.setAttribute("aria-sort", order === "up" ? "ascending" : "descending");
    }
    const sorted = [...rows];
    if (header) {
      const column = header.cellIndex;
      const sign = order === "up" ? 1 : -1;
      const numeric = !header.classList.contains("text") || name === "paper";
      const value = (row) => {
        const text = row.cells[column].dataset.value;
        return numeric ? parseFloat(text) : text;
      };
      sorted.sort((a, b) => {
        const [left, right] = [value(a), value(b)];
        const [noLeft, noRight] = [left, right].map((each) => each === undefined || Number.isNaN(each));
        // Missing values come last in both orders.
        if (noLeft || noRight) return noLeft - noRight;
        return sign * (numeric ? left - right : left.localeCompare(right, "en"));
      });
    }
    if (sorted.some((row, position) => row !== body.rows[position])) body.append(...sorted);
  }

  /* ---- filters ---- */

  window.isShown = (row) => {
    const element = document.getElementById(row);
    return !element || !element.hidden;
  };

  function filter() {
    const find = getState("find").toLowerCase();
    const dataset = getState("dataset");
    let shown = 0;
    let total = 0;
    for (const { table, rows } of tables) {
      const section = table.closest("section");
      let some = false;
      for (const row of rows) {
        const passes =
          FILTERED.every((name) => !getState(name) || row.dataset[name] === getState(name)) &&
          row.cells[0].dataset.value.toLowerCase().includes(find);
        row.hidden = !passes;
        some ||= passes;
        total += 1;
        shown += passes && (!dataset || section.dataset.dataset === dataset);
      }
      for (const details of all("details.row", section)) details.hidden = !isShown(details.dataset.row);
      section.hidden = Boolean(dataset) && section.dataset.dataset !== dataset;
      section.querySelector(".empty").hidden = some;
    }
    for (const field of all("input, select", filters)) {
      if (document.activeElement !== field || field.tagName === "SELECT") field.value = getState(field.name);
    }
    filters.querySelector("output").value = shown < total ? `${shown} of ${total} rows` : "";
  }

  /* ---- a row's details ---- */

  let opened = "";

  function open() {
    const row = getState("row");
    if (row === opened) return;
    opened = row;
    const body = document.getElementById(`row=${row}`);
    if (!body) return;
    const details = body.closest("details");
    details.open = true;
    details.scrollIntoView({ block: "start" });
    details.querySelector("summary").focus({ preventScroll: true });
  }

  /* ---- copying ---- */

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // For browsers without clipboard access for pages opened from disk.
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  }

  function makeCopyable(block) {
    const button = document.createElement("button");
    button.type = "button";
    const label = block.dataset.label;
    button.textContent = "Copy";
    button.setAttribute("aria-label", `Copy: ${label}`);
    button.addEventListener("click", async () => {
      await copy(block.querySelector("pre").textContent);
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1500);
    });
    block.prepend(button);
  }

  /* ---- print: unfold everything, then restore it ---- */

  let unfolded = [];
  addEventListener("beforeprint", () => {
    unfolded = all("details.notes, details.matrix").filter((details) => !details.open);
    for (const details of unfolded) details.open = true;
  });
  addEventListener("afterprint", () => {
    for (const details of unfolded) details.open = false;
  });

  function update() {
    for (const each of tables) sort(each);
    filter();
    open();
  }

  tables.forEach(makeSortable);
  all(".copyable").forEach(makeCopyable);
  filters.hidden = false;
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("input", (event) => setState(event.target.name, event.target.value));
  addEventListener("statechange", update);
  update();
})();
