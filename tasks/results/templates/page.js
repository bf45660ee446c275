"use strict";
// What the pages do beyond showing: light or dark, sorting, filtering, following. Without it they show everything.
(() => {
  const root = document.documentElement;
  const make = (tag, properties) => Object.assign(document.createElement(tag), properties);
  const inside = (scope, selector, act) => scope.querySelectorAll(selector).forEach(act);

  // a page of a file may not store anything
  const remembered = () => { try { return localStorage.getItem("scheme"); } catch { return null; } };
  const remember = scheme => { try { localStorage.setItem("scheme", scheme); } catch { /* until it is closed */ } };
  const isDark = () => (root.style.colorScheme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  if (["light", "dark"].includes(remembered())) root.style.colorScheme = remembered();

  const themeButton = button => {
    const show = () => button.setAttribute("aria-pressed", isDark());
    button.addEventListener("click", () => { remember(root.style.colorScheme = isDark() ? "light" : "dark"); show(); });
    button.hidden = false;
    show();
  };

  const valueOf = (row, column) => {
    const { v } = row.cells[column].dataset;
    return v === undefined ? row.cells[column].textContent.trim() : v === "" ? null : Number(v);
  };
  const compare = (a, b) => typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b;
  const sortable = table => [...table.tHead.rows[0].cells].forEach((head, column) => {
    if (!head.textContent.trim()) return;
    const button = make("button", { type: "button" });
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const body = table.tBodies[0], rows = [...body.rows];
      const isText = rows.some(row => typeof valueOf(row, column) === "string");
      const was = head.getAttribute("aria-sort"), up = was ? was === "descending" : isText;
      inside(table, "[aria-sort]", other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      rows.sort((first, second) => {
        const [a, b] = [valueOf(first, column), valueOf(second, column)];
        // what has no value is last, either way
        return a === null || b === null ? (a === null) - (b === null) : up ? compare(a, b) : compare(b, a);
      });
      body.append(...rows);
    });
  });

  const filter = bar => {
    const search = bar.querySelector("input[type=search]"), count = bar.querySelector("output");
    const apply = () => {
      const items = [...document.getElementById(bar.dataset.for).children];
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const item of items) {
        const text = words.length ? item.textContent.toLowerCase() : "";
        item.hidden = !words.every(word => text.includes(word))
          || [...bar.querySelectorAll("select")].some(select => select.value && item.dataset[select.name] !== select.value);
      }
      count.textContent = `${items.filter(item => !item.hidden).length} of ${items.length} shown`;
    };
    bar.addEventListener("input", apply);
    bar.addEventListener("change", apply);
    bar.hidden = false;
    apply();
    return apply;
  };

  addEventListener("DOMContentLoaded", () => {
    inside(document, "button.theme", themeButton);
    inside(document, "table.sortable", sortable);
    const filters = [...document.querySelectorAll(".filter[data-for]")].map(filter);
    const live = [...document.querySelectorAll("[data-live]")];
    if (!live.length) return;
    // one request at a time, and none while nobody looks; the server stopping ends it
    const follow = async () => {
      const isOn = document.querySelector("#follow")?.checked ?? true;
      if (!document.hidden && isOn) {
        const answer = await fetch(location.href, { cache: "no-store" }).catch(() => null);
        const note = document.querySelector("#connection");
        if (note) note.textContent = answer ? "" : "The server does not answer; this page is as it was.";
        if (answer) {
          const page = new DOMParser().parseFromString(await answer.text(), "text/html");
          for (const part of document.querySelectorAll("[data-live]")) {
            const fresh = page.getElementById(part.id);
            if (!fresh) { if (answer.status >= 400 || part.dataset.live === "run") return location.reload(); continue; }
            if (fresh.innerHTML !== part.innerHTML) part.replaceChildren(...fresh.childNodes);
          }
          filters.forEach(apply => apply());
        }
      }
      setTimeout(follow, 3000);
    };
    setTimeout(follow, 3000);
  });
})();
