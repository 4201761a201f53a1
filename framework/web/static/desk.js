// Sorting of tables, and the refresh of what is shown. The page works without it.
"use strict";

const EVERY = 5000;

function valueOf(row, column) {
  const cell = row.cells[column];
  if (!cell) return "";
  const marked = cell.dataset.sort ?? cell.querySelector("[data-sort]")?.dataset.sort;
  const text = marked ?? cell.textContent.trim().replaceAll(",", "");
  const number = Number(text);
  return text === "" || Number.isNaN(number) ? text.toLowerCase() : number;
}

function sort(table, column, down) {
  const body = table.tBodies[0];
  const rows = [...body.rows].filter((row) => row.cells.length > 1);
  rows.sort((one, other) => {
    const a = valueOf(one, column), b = valueOf(other, column);
    const order = typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
    return down ? -order : order;
  });
  body.append(...rows);
  [...table.tHead.rows[0].cells].forEach((cell, at) => {
    if (at === column) cell.setAttribute("aria-sort", down ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  });
}

function makeSortable(root, sorted) {
  root.querySelectorAll("table.sortable").forEach((table, number) => {
    [...table.tHead.rows[0].cells].forEach((cell, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...cell.childNodes);
      cell.append(button);
      button.addEventListener("click", () => sort(table, column, cell.getAttribute("aria-sort") === "ascending"));
    });
    const before = sorted[number];
    if (before) sort(table, before.column, before.down);
  });
}

function sortedNow() {
  return [...document.querySelectorAll("table.sortable")].map((table) => {
    const column = [...table.tHead.rows[0].cells].findIndex((cell) => cell.hasAttribute("aria-sort"));
    return column < 0 ? null : { column, down: table.tHead.rows[0].cells[column].getAttribute("aria-sort") === "descending" };
  });
}

// A refresh must not take away what a person writes, chooses, reads or stands on.
function isBusy() {
  const main = document.getElementById("main");
  const focused = document.activeElement;
  return document.hidden || (main.contains(focused) && focused !== main) || !getSelection().isCollapsed
    || main.querySelector("details[open], input:checked") !== null
    || [...main.querySelectorAll("input, textarea")].some((field) => field.value !== field.defaultValue);
}

async function refresh() {
  if (isBusy()) return;
  const answer = await fetch(location.href, { credentials: "same-origin", redirect: "error" });
  if (!answer.ok || isBusy()) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const fresh = page.getElementById("main");
  if (!fresh) return;
  const sorted = sortedNow();
  document.getElementById("main").replaceChildren(...fresh.childNodes);
  makeSortable(document.getElementById("main"), sorted);
}

makeSortable(document, []);
if ("live" in document.body.dataset && document.querySelector("nav")) {
  const button = document.getElementById("live");
  let on = localStorage.getItem("live") !== "off";
  const show = () => {
    button.textContent = on ? "Refreshes every 5 s" : "Does not refresh";
    button.setAttribute("aria-pressed", String(on));
  };
  button.addEventListener("click", () => {
    on = !on;
    localStorage.setItem("live", on ? "on" : "off");
    show();
  });
  button.hidden = false;
  show();
  setInterval(() => {
    if (on) refresh().catch(() => { button.textContent = "The page cannot be reached"; });
  }, EVERY);
}
