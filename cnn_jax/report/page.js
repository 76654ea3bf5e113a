"use strict";
// A notebook may contain several pages among its own elements: each page is set up once, and nothing else is changed.
for (const page of document.querySelectorAll(".cnn-jax:not([data-ready])")) {
  page.dataset.ready = "";

  // The page of a running sweep, opened with #live, reloads itself.
  if ("live" in page.dataset && location.hash === "#live") setTimeout(() => location.reload(), 10000);

  // Boxes that scroll sideways are marked; the others are no tab stops.
  const measure = () => page.querySelectorAll(".table, .panels.wide > div").forEach((box) => {
    const more = box.scrollWidth > box.clientWidth + 1;
    const cue = box.nextElementSibling?.matches(".cue") ? box.nextElementSibling : null;
    if (box.tabIndex === 0 || more) box.tabIndex = more ? 0 : -1;
    if (more && !cue) {
      const hint = document.createElement("p");
      hint.className = "cue";
      hint.textContent = "↔ scroll sideways for more";
      box.after(hint);
    } else if (!more) cue?.remove();
  });
  measure();
  addEventListener("resize", measure);
  page.querySelectorAll("details").forEach((part) => part.addEventListener("toggle", measure));

  // A click on a column's head sorts the table; numbers by the exact value in data-v.
  for (const table of page.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.firstChild.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent;
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === "");  // unknown values last in both orders
        const order = isNaN(x) || isNaN(y) ? x.localeCompare(y, undefined, { numeric: true }) : x - y;
        return down ? -order : order;
      });
      table.tBodies[0].append(...rows);
    }));
  }

  // Parallel coordinates: dragging along an axis keeps the runs that pass there, a click on it shows all again.
  for (const picture of page.querySelectorAll("svg.parallel")) {
    const runs = [...picture.querySelectorAll(".run")].map((path) => [path, path.dataset.y.split(" ").map(parseFloat)]);
    const kept = new Map();  // axis -> [top, bottom]
    const inside = (y, [top, bottom]) => y >= top && y <= bottom;
    const show = () => runs.forEach(([path, ys]) =>
      path.classList.toggle("out", ![...kept].every(([axis, range]) => inside(ys[axis], range))));
    picture.querySelectorAll(".brush").forEach((brush, axis) => {
      const place = (event) => new DOMPoint(event.clientX, event.clientY).matrixTransform(picture.getScreenCTM().inverse()).y;
      let start = null, range = null;
      brush.addEventListener("pointerdown", (event) => {
        brush.setPointerCapture(event.pointerId);
        start = place(event);
        range?.remove();
        range = null;
        kept.delete(axis);
        show();
      });
      brush.addEventListener("pointermove", (event) => {
        if (start === null) return;
        const [top, bottom] = [start, place(event)].sort((a, b) => a - b);
        if (bottom - top < 4) return;
        if (!range) {
          range = brush.cloneNode();
          range.setAttribute("class", "chosen-range");
          brush.before(range);
        }
        range.setAttribute("y", top);
        range.setAttribute("height", bottom - top);
        kept.set(axis, [top, bottom]);
        show();
      });
      brush.addEventListener("pointerup", () => { start = null; });
    });
  }

  // The title of the mark at a place, or of the nearest within a finger's width.
  const titleNear = (x, y, panels) => {
    for (const radius of [0, 3, 6, 9, 12, 15]) {
      for (let i = 0; i < (radius ? 16 : 1); i++) {
        let mark = document.elementFromPoint(x + radius * Math.cos((i * Math.PI) / 8), y + radius * Math.sin((i * Math.PI) / 8));
        if (!mark || !panels.contains(mark)) continue;
        while (mark !== panels && ![...mark.children].some((child) => child.tagName === "title")) mark = mark.parentElement;
        if (mark !== panels) return mark.querySelector(":scope > title").textContent;
      }
    }
    return "";
  };
  // A tap on a mark shows its tooltip, as there is no hovering on touch screens.
  for (const panels of page.querySelectorAll(".panels")) {
    const line = document.createElement("p");
    line.className = "tapped";
    line.setAttribute("aria-live", "polite");
    panels.after(line);
    panels.addEventListener("click", (event) => {
      line.textContent = titleNear(event.clientX, event.clientY, panels);
    });
  }

  // Disagreement: a square lists the images that one cell gets right in most runs and the other wrong.
  const source = page.querySelector(".image-answers");
  if (source) {
    const { cells, runs, images, right, pictures } = JSON.parse(source.textContent);
    const list = page.querySelector(".flips");
    const choose = (pair) => {
      page.querySelectorAll(".pair").forEach((other) => {
        const same = other.dataset.a === pair.dataset.a && other.dataset.b === pair.dataset.b;
        other.classList.toggle("chosen", same);
        other.tabIndex = same ? 0 : -1;  // one stop of the tab key: arrow keys go on
      });
      const [a, b] = [+pair.dataset.a, +pair.dataset.b];
      const share = (cell, i) => right[cell][i] / runs[cell];
      const better = (x, y) => images.filter((_, i) => share(x, i) > 0.5 && share(y, i) < 0.5);
      const text = (x, y, found) => `${cells[x]} right, ${cells[y]} wrong: ${found.length ? found.join(", ") : "none"}.`;
      list.textContent = a === b
        ? `${cells[a]}: images on which its own ${runs[a]} runs disagree: ${images.filter((_, i) => right[a][i] % runs[a]).join(", ") || "none"}.`
        : `${text(a, b, better(a, b))} ${text(b, a, better(b, a))}`;
      const shown = a === b ? images.filter((_, i) => right[a][i] % runs[a]) : [...better(a, b), ...better(b, a)];
      const gallery = document.createElement("span");
      gallery.className = "gallery";
      for (const index of shown.filter((one) => one in pictures).slice(0, 24)) {
        const picture = document.createElement("img");
        picture.src = pictures[index];
        picture.alt = picture.title = `test image ${index}`;
        picture.className = "pixels";
        gallery.append(picture);
      }
      list.append(gallery);
    };
    for (const pair of page.querySelectorAll(".pair")) {
      pair.addEventListener("click", () => choose(pair));
      pair.addEventListener("keydown", (event) => {
        const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Enter: [0, 0], " ": [0, 0] };
        const [down, right] = moves[event.key] ?? [];
        if (down === undefined) return;
        event.preventDefault();
        const next = pair.parentElement.querySelector(`.pair[data-a="${+pair.dataset.a + down}"][data-b="${+pair.dataset.b + right}"]`);
        if (next) choose(next);
        next?.focus();
      });
    }
  }

  addEventListener("beforeprint", () => page.querySelectorAll("details:not(.as-it-is)").forEach((part) => { part.open = true; }));
}
