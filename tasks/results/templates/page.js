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
      const isText = [...table.tBodies[0].rows].some(row => typeof valueOf(row, column) === "string");
      const was = head.getAttribute("aria-sort"), up = was ? was === "descending" : isText;
      inside(table, "[aria-sort]", other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      order(table);
    });
  });
  const order = table => {
    const head = table.querySelector("[aria-sort]"), body = table.tBodies[0];
    if (!head) return;
    const column = head.cellIndex, up = head.getAttribute("aria-sort") === "ascending";
    const rows = [...body.rows].sort((first, second) => {
      const [a, b] = [valueOf(first, column), valueOf(second, column)];
      // what has no value is last, either way
      return a === null || b === null ? (a === null) - (b === null) : up ? compare(a, b) : compare(b, a);
    });
    body.append(...rows);
  };

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

  const refresh = (part, fresh) => {
    const chosen = new Set([...part.querySelectorAll(":checked")].map(box => box.value));
    part.replaceChildren(...fresh.childNodes);
    inside(part, "input[type=checkbox]", box => { box.checked = chosen.has(box.value); });
    if (part.matches("table.sortable > tbody")) order(part.closest("table"));
  };

  addEventListener("DOMContentLoaded", () => {
    inside(document, "button.theme", themeButton);
    inside(document, "table.sortable", sortable);
    const filters = [...document.querySelectorAll(".filter[data-for]")].map(filter);
    const live = [...document.querySelectorAll("[data-live]")];
    if (!live.length) return;
    const wait = () => setTimeout(follow, 1000 * live[0].dataset.every);
    // one request at a time, and none while nobody looks
    const follow = async () => {
      if (!document.hidden && (document.querySelector("#follow")?.checked ?? true)) {
        const answer = await fetch(location.href).catch(() => null);
        document.querySelector("#connection").textContent = answer ? "" : "The server does not answer. This page is as it was.";
        if (answer) {
          const page = new DOMParser().parseFromString(await answer.text(), "text/html");
          // the run has ended, or is gone: its address has another page now
          if (live.some(part => !page.getElementById(part.id))) return location.reload();
          live.forEach(part => refresh(part, page.getElementById(part.id)));
          filters.forEach(apply => apply());
        }
      }
      wait();
    };
    wait();
  });
})();
