// Everything here is an addition: without it all pages read as they are, and links to pictures open their files.
"use strict";

const root = document.body.dataset.root;

function plainWords(text) {
  return text.toLowerCase().replace(/figure|fig\.?/g, "fig").replace(/table|tab\.?/g, "table")
    .replace(/(fig|table)\s+(?=\d)/g, "$1").replace(/\s+/g, " ").trim();
}

function setUpSearch() {
  const form = document.querySelector("form.search");
  const box = form.querySelector("input");
  const list = form.querySelector("ul");
  const lines = window.tabaSearch.map((line) => ({ ...line, text: plainWords(line.t), key: line.k || "" }));
  form.hidden = false;

  // The key itself first (table 7, C4b), then keys and texts that begin with the words, then those that hold them.
  function rank(line, asked) {
    const words = asked.split(" ");
    if (line.key === asked) return 0;
    if (line.key && line.key.startsWith(asked) && !/^\d/.test(line.key.slice(asked.length))) return 1;
    if (line.text.startsWith(asked) && !/^\d/.test(line.text.slice(asked.length))) return 2;
    return words.every((word) => line.text.includes(word) || line.key.includes(word)) ? 3 : 4;
  }
  function matches() {
    const asked = plainWords(box.value);
    if (!asked) return [];
    const ranked = lines.map((line) => [rank(line, asked), line]).filter(([place]) => place < 4);
    const close = ranked.some(([place]) => place < 3) && /^(fig|table)\d+$/.test(asked);
    return ranked.filter(([place]) => !close || place < 3).sort((a, b) => a[0] - b[0]).slice(0, 12).map(([, line]) => line);
  }
  function show() {
    const found = matches();
    list.replaceChildren(...found.map((line) => {
      const item = document.createElement("li");
      const link = document.createElement("a");
      link.href = root + line.h;
      link.textContent = line.t;
      item.append(link);
      return item;
    }));
    if (box.value.trim() && !found.length) list.append(Object.assign(document.createElement("li"), { textContent: "Nothing found." }));
    list.hidden = !box.value.trim();
  }
  box.addEventListener("input", show);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const [first] = matches();
    if (first) { list.hidden = true; window.location.href = root + first.h; }
  });
  form.addEventListener("keydown", (event) => { if (event.key === "Escape") { list.hidden = true; box.focus(); } });
  document.addEventListener("click", (event) => { if (!form.contains(event.target)) list.hidden = true; });
}

function setUpEnlarging() {
  const dialog = document.getElementById("enlarged");
  const picture = dialog.querySelector("img");
  for (const link of document.querySelectorAll("a.enlarge")) {
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      picture.src = link.href;
      picture.alt = link.querySelector("img").alt;
      dialog.showModal();
    });
  }
  dialog.addEventListener("click", (event) => { if (event.target !== dialog.querySelector("button")) dialog.close(); });
}

function setUpSorting(table) {
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  const body = table.tBodies[0];
  let group = "";
  for (const row of [...body.rows]) {
    if (row.classList.contains("rowgroup")) { group = row.textContent.trim(); continue; }
    row.dataset.group = group;
  }
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const rising = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      sortRows(body, column, rising ? 1 : -1);
    });
  });
}

// Rows leave their groups, whose names go into the rows; what has no number comes last either way.
function sortRows(body, column, sign) {
  const rows = [...body.rows].filter((row) => !row.classList.contains("rowgroup"));
  const value = (row) => (row.cells[column].dataset.v === undefined ? NaN : Number(row.cells[column].dataset.v));
  rows.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (Number.isNaN(x) && Number.isNaN(y)) return sign * a.cells[column].textContent.trim().localeCompare(b.cells[column].textContent.trim());
    return Number.isNaN(x) ? 1 : Number.isNaN(y) ? -1 : sign * (x - y);
  });
  for (const row of rows) {
    if (row.dataset.group && !row.querySelector(".of-group")) {
      row.cells[0].append(Object.assign(document.createElement("span"), { className: "second context of-group", textContent: row.dataset.group }));
    }
  }
  body.replaceChildren(...rows);
}

// A place inside a folded part, and a fold that holds the place a link leads to, are opened.
function openTarget() {
  const target = window.location.hash && document.getElementById(decodeURIComponent(window.location.hash.slice(1)));
  for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
  if (target) target.scrollIntoView();
}

if (window.matchMedia("(max-width: 900px)").matches) document.querySelector(".toc > details").open = false;
window.addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("main details:not(.query)")) part.open = true;
});
if (window.tabaSearch) setUpSearch();
setUpEnlarging();
document.querySelectorAll("table[data-sortable]").forEach(setUpSorting);
window.addEventListener("hashchange", openTarget);
openTarget();
