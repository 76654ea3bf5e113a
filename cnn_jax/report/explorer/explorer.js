// The part of the page that shows what the networks compute: drawing, maps, probabilities, and the products behind a value.
for (const box of document.querySelectorAll(".cnn-jax .explorer:not([data-ready])")) {
  box.dataset.ready = "";
  const data = JSON.parse(box.nextElementSibling.textContent);
  const [height, width, channels] = data.shape, MAPS = 32, CLASSES = 12;
  const bytes = (text) => Uint8ClampedArray.from(atob(text), (letter) => letter.charCodeAt(0));
  const steps = (cell) => (cell.ready ??= cnnJaxEngine.attach(cell.steps, cell.parameters, cell.bytes));
  const forward = (cell, pixels, record) =>
    cnnJaxEngine.run(steps(cell), cnnJaxEngine.normalized(pixels, data.shape, cell.normalization), record);

  // ------------------------------------------------------------------------------------------------------------ drawing
  let pixels = new Uint8ClampedArray(height * width * channels);
  const cursor = { row: height >> 1, column: width >> 1 };
  const show = (canvas, values) => {
    const image = new ImageData(width, height);
    for (let i = 0; i < height * width; i++) {
      for (let k = 0; k < 3; k++) image.data[4 * i + k] = values[channels === 1 ? i : i * channels + k];
      image.data[4 * i + 3] = 255;
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
  };
  const canvas = make("canvas", { className: "pixels", width, height, tabIndex: 0 });
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label", "the image: draw here, or move with the arrow keys and paint with space");
  // Says aloud what is under the keys; the names of what is drawn stand below the image.
  const heard = make("p", { className: "heard", attributes: { role: "status" } });
  const named = make("p", { className: "hint named", attributes: { "aria-live": "polite" } });
  // The answers beside a finger that draws, where the networks are below the window.
  const glance = make("p", { className: "glance", attributes: { "aria-hidden": "true" } });
  const FINE = Math.max(8, Math.ceil(520 / width));  // of the lines over the image, per pixel of it
  const over = make("canvas", { className: "over", width: width * FINE, height: height * FINE });
  const colour = make("input", { type: "color", value: "#ffffff", title: "colour of the brush" });
  const eraser = make("button", { type: "button", textContent: "Eraser" });
  eraser.setAttribute("aria-pressed", "false");
  const radius = Math.max(0.6, width / 22);
  const paint = (row, column) => {
    const erase = eraser.getAttribute("aria-pressed") === "true";
    const ink = [1, 3, 5].map((at) => parseInt(colour.value.slice(at, at + 2), 16));
    for (let i = 0; i < height; i++) for (let j = 0; j < width; j++) {
      const share = Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(i + 0.5 - row, j + 0.5 - column)));
      for (let k = 0; share > 0 && k < channels; k++) {
        const at = (i * width + j) * channels + k, target = erase ? 0 : channels === 1 ? 255 : ink[k];
        const mixed = pixels[at] + share * (target - pixels[at]);
        pixels[at] = channels === 1 && !erase ? Math.max(pixels[at], mixed) : mixed;
      }
    }
  };
  let last = null;
  const place = (event) => {
    const area = canvas.getBoundingClientRect();
    return [((event.clientY - area.top) / area.height) * height, ((event.clientX - area.left) / area.width) * width];
  };
  const stroke = ([row, column]) => {
    const [from, to] = [last ?? [row, column], [row, column]];
    const count = Math.max(1, Math.ceil(2 * Math.hypot(to[0] - from[0], to[1] - from[1])));
    for (let i = 1; i <= count; i++) paint(from[0] + ((to[0] - from[0]) * i) / count, from[1] + ((to[1] - from[1]) * i) / count);
    last = to;
    named.textContent = "your drawing";
    update();
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture?.(event.pointerId);
    last = null;
    stroke(place(event));
  });
  canvas.addEventListener("pointermove", (event) => { if (last) stroke(place(event)); });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { last = null; });
  canvas.addEventListener("keydown", (event) => {
    const move = moves[event.key];
    if (move) {
      cursor.row = Math.min(height - 1, Math.max(0, cursor.row + move[0]));
      cursor.column = Math.min(width - 1, Math.max(0, cursor.column + move[1]));
      outline([[cursor.row, cursor.row + 1], [cursor.column, cursor.column + 1]]);
      const at = (cursor.row * width + cursor.column) * channels;
      heard.textContent = `row ${cursor.row + 1}, column ${cursor.column + 1}: ${[...pixels.slice(at, at + channels)].join(", ")}`;
    } else if (event.key === " ") {
      paint(cursor.row + 0.5, cursor.column + 0.5);
      named.textContent = "your drawing";
      update();
    } else return;
    event.preventDefault();
  });
  // Outline rows and columns of the image, [first, after the last] each.
  const outline = (area) => {
    const context = over.getContext("2d");
    context.clearRect(0, 0, over.width, over.height);
    if (!area) return;
    context.strokeStyle = "#e69f00";
    context.lineWidth = over.width / 90;
    context.strokeRect(area[1][0] * FINE, area[0][0] * FINE, (area[1][1] - area[1][0]) * FINE, (area[0][1] - area[0][0]) * FINE);
  };
  const take = (values, name) => {
    pixels = Uint8ClampedArray.from(values);
    named.textContent = name ?? named.textContent;
    update();
  };
  const shifted = (values, down, right) => {
    const out = new Uint8ClampedArray(values.length);
    for (let i = 0; i < height; i++) for (let j = 0; j < width; j++) {
      const [row, column] = [i - down, j - right];
      if (row >= 0 && row < height && column >= 0 && column < width)
        for (let k = 0; k < channels; k++) out[(i * width + j) * channels + k] = values[(row * width + column) * channels + k];
    }
    return out;
  };
  const centred = (values) => {
    let sum = 0, down = 0, right = 0;
    values.forEach((value, at) => {
      const place = Math.floor(at / channels);
      sum += value;
      down += value * Math.floor(place / width);
      right += value * (place % width);
    });
    return sum ? shifted(values, Math.round((height - 1) / 2 - down / sum), Math.round((width - 1) / 2 - right / sum)) : values;
  };
  const buttons = make("div", { className: "buttons" },
    button("Clear", "an empty image", () => take(new Uint8ClampedArray(pixels.length), "an empty image: draw on it")), eraser,
    button("Centre", "move the centre of mass to the middle, as the digits of MNIST were", () => take(centred(pixels))),
    make("span", { attributes: { role: "group", "aria-label": "shift the image" } },
      ...[["←", 0, -1, "left"], ["→", 0, 1, "right"], ["↑", -1, 0, "up"], ["↓", 1, 0, "down"]].map(([arrow, down, right, word]) => {
        const one = button(arrow, `shift the image ${word} by a pixel`, () => take(shifted(pixels, down, right)));
        one.setAttribute("aria-label", one.title);
        return one;
      })));
  if (channels > 1) buttons.append(colour);
  eraser.addEventListener("click", () => eraser.setAttribute("aria-pressed", eraser.getAttribute("aria-pressed") !== "true"));
  // Stored images, a group at a time.
  const strip = make("div", { className: "strip" }), groups = [...new Set(data.images.map((one) => one.group))];
  const group = make("select", { attributes: { "aria-label": "images to pick from" } },
    ...groups.map((name) => make("option", { textContent: name })));
  const list = () => strip.replaceChildren(...data.images.filter((one) => one.group === group.value).map((one) => {
    const values = bytes(one.pixels), small = make("canvas", { width, height });
    show(small, values);
    const pick = button("", one.name, () => take(values, one.name));
    pick.setAttribute("aria-label", one.name);
    pick.append(small);
    return pick;
  }));
  group.addEventListener("change", list);
  list();
  const desk = make("div", { className: "desk" }, make("div", { className: "drawing" }, canvas, over), glance, named, buttons, group, strip, heard);

  // ----------------------------------------------------------------------------------------------------------- networks
  const tint = (value, largest) => {
    const share = largest ? Math.min(1, Math.abs(value) / largest) : 0;
    return value >= 0 ? [255 * share, 245 * share, 225 * share] : [40 * share, 130 * share, 255 * share];
  };
  const drawMap = (target, rows, columns, at, largest) => {
    const image = new ImageData(columns, rows);
    for (let i = 0; i < rows * columns; i++) image.data.set([...tint(at(i), largest), 255], 4 * i);
    target.getContext("2d").putImageData(image, 0, 0);
  };

  // The cell that has a level of a factor, and of the other levels of `from` as many as possible; of several the best.
  const nearest = (from, factor, level) => {
    const shared = (cell) => cell.levels.filter((one, f) => one === from.levels[f]).length;
    const fit = data.cells.filter((cell) => cell.levels[factor] === level);
    return fit.reduce((best, cell) => (shared(cell) > shared(best) ? cell : best), fit[0]);
  };
  // The cell to set beside another: one that differs in a single factor, in the padding if there are several.
  const beside = (from) => {
    const order = data.factors.map((_, f) => f).sort((a, b) => (data.factors[b].name === "padding") - (data.factors[a].name === "padding"));
    const differing = (cell) => cell.levels.filter((one, f) => one !== from.levels[f]).length;
    const others = data.cells.filter((cell) => cell !== from);
    const least = Math.min(...others.map(differing)), close = others.filter((cell) => differing(cell) === least);
    const factor = order.find((f) => close.some((cell) => cell.levels[f] !== from.levels[f]));
    return close.find((cell) => factor === undefined || cell.levels[factor] !== from.levels[factor]);
  };

  const SCALE = "Maps: black is 0, lighter is larger, blue is below 0; each layer has a scale of its own.";
  const network = (which, start) => {
    let chosen = start;
    const menus = data.factors.map(({ name, levels }, f) => {
      const menu = make("select", { attributes: { "aria-label": `${name} of the ${which} network` } },
        ...levels.map((level, i) => make("option", { value: i, textContent: level })));
      menu.addEventListener("change", () => choose(nearest(chosen, f, +menu.value)));
      return menu;
    });
    const choose = (cell) => {
      chosen = cell;
      cell?.levels.forEach((level, f) => { menus[f].value = level; });
      update();
    };
    start?.levels.forEach((level, f) => { menus[f].value = level; });
    const answer = make("span", { attributes: { "aria-live": "polite" } }), facts = make("small"), stability = make("small");
    const says = make("p", { className: "says" }, answer, facts, stability);
    const bars = make("div", { className: "bars" }), layers = make("div");
    const choice = make("div", { className: "choice" }, ...menus.map((menu, f) => make("label", {}, `${data.factors[f].name} `, menu)));
    const root = make("div", { className: "net", attributes: { role: "group", "aria-label": `the ${which} network` } },
      choice, says, bars, make("p", { className: "hint", textContent: SCALE }), layers);
    const open = new Set();
    let found = [], built = null, pointed = null;

    const draw = () => {
      const cell = chosen;
      root.hidden = !cell;
      if (!cell) return;
      found = [];
      steps(cell);
      const before = performance.now();
      const logits = forward(cell, pixels, (step, x, y) => found.push({ step, x, y })).data;
      const time = performance.now() - before;
      const shares = cnnJaxEngine.softmax(logits), order = shares.map((_, i) => i).sort((a, b) => shares[b] - shares[a]);
      const best = order[0], text = `${data.classes[best]}: ${(100 * shares[best]).toFixed(1)} %`;
      if (answer.textContent !== text) answer.textContent = text;
      facts.textContent = `${data.factors.length ? "" : `${cell.label}, `}seed ${cell.seed}, ${cell.value}; computed in ${time < 0.1 ? "under 0.1" : time.toFixed(1)} ms`;
      const listed = order.length <= CLASSES ? order.slice().sort((a, b) => a - b) : order.slice(0, CLASSES);
      bars.replaceChildren(...listed.flatMap((i) => {
        const bar = make("i"), most = i === best ? "most" : "";
        bar.style.width = `${100 * shares[i]}%`;
        return [make("span", { textContent: data.classes[i], className: most }), make("div", { className: "bar" }, bar),
          make("span", { textContent: `${(100 * shares[i]).toFixed(1)} %`, className: most })];
      }));
      if (built !== cell) {
        built = cell;
        pointed = null;
        build();
      }
      layers.querySelectorAll(".layer").forEach((layer, n) => fill(layer, found[n]));
      const surrounded = layers.querySelector(".padded");
      if (surrounded) surround(surrounded, found[0].step);
      if (pointed) explain();
    };

    // Of the eight shifts by one pixel, those that leave the answer as it is.
    const shift = () => {
      const cell = chosen;
      if (!cell) return;
      const answered = (values) => forward(cell, values).data.reduce((best, v, i, all) => (v > all[best] ? i : best), 0);
      const now = answered(pixels);
      let same = 0;
      for (const down of [-1, 0, 1]) for (const right of [-1, 0, 1]) if (down || right) same += answered(shifted(pixels, down, right)) === now;
      stability.textContent = `the same answer for ${same} of the 8 shifts by one pixel`;
    };

    const build = () => layers.replaceChildren(...found.map(({ step, y }, n) => {
      const title = make("h3", {}, `${step.name} `, make("small", { textContent: `${step.kind.replaceAll("_", " ")}, ${y.shape.join("×")}` }), make("small", { className: "scale" }));
      const maps = make("div", { className: "maps" });
      const flat = y.shape.length === 1, all = flat ? 1 : y.shape[2], count = open.has(step.name) ? all : Math.min(all, MAPS);
      for (let k = 0; k < count; k++) {
        const map = make("canvas", { className: flat ? "flat" : "", width: flat ? y.shape[0] : y.shape[1], height: flat ? 1 : y.shape[0] });
        map.tabIndex = k ? -1 : 0;  // one stop of the tab key per layer: arrow keys go on into the next map
        map.setAttribute("role", "application");
        map.setAttribute("aria-label", flat ? `${step.name}: ${y.shape[0]} values; arrow keys move` : `${step.name}, map ${k + 1} of ${all}; arrow keys move`);
        const point = (i, j) => {
          pointed?.map.classList.remove("pointed");
          pointed = { n, k, i: Math.min(map.height - 1, Math.max(0, i)), j: Math.min(map.width - 1, Math.max(0, j)), map };
          map.classList.add("pointed");
          for (const one of maps.children) if (one.tagName === "CANVAS") one.tabIndex = one === map ? 0 : -1;
          explain();
        };
        map.cnnJaxPoint = point;
        const at = (event) => {
          const area = map.getBoundingClientRect();
          point(Math.floor(((event.clientY - area.top) / area.height) * map.height), Math.floor(((event.clientX - area.left) / area.width) * map.width));
        };
        map.addEventListener("pointermove", at);
        map.addEventListener("pointerdown", at);
        map.addEventListener("keydown", (event) => {
          const move = moves[event.key], here = pointed?.map === map ? pointed : { i: 0, j: -1 };
          if (!move) return;
          event.preventDefault();
          const [row, column] = [here.i + move[0], here.j + move[1]];
          const next = column >= map.width ? map.nextElementSibling : column < 0 && here.j >= 0 ? map.previousElementSibling : null;
          if (next?.cnnJaxPoint) next.focus();
          (next?.cnnJaxPoint ?? point)(row, next ? (column < 0 ? Infinity : 0) : column);
          heard.textContent = layers.querySelector(".why p").textContent;
        });
        maps.append(map);
      }
      if (count < all) maps.append(button(`all ${all}`, `show all ${all} maps`, () => {
        open.add(step.name);
        built = null;
        draw();
      }));
      return make("div", { className: "layer" }, title, ...(n ? [] : padded(step)), maps);
    }));

    // What the padding of the first convolution puts around the image, with the image's edge as a line.
    const padded = (step) => {
      if (step.kind !== "conv") return [];
      const { pads, mode } = step.settings;
      if (!pads.flat().some(Boolean)) return [make("p", { className: "hint", textContent: "no padding: the kernel stays inside the image" })];
      const canvas = make("canvas", { className: "padded", width: 8 * (width + pads[1][0] + pads[1][1]), height: 8 * (height + pads[0][0] + pads[0][1]) });
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `the image with its padding, ${mode}`);
      return [make("p", { className: "hint", textContent: `the image with its padding: ${mode}` }), make("div", { className: "maps" }, canvas)];
    };
    const surround = (canvas, step) => {
      const { pads, mode } = step.settings, context = canvas.getContext("2d");
      for (let i = 0; i < canvas.height / 8; i++) for (let j = 0; j < canvas.width / 8; j++) {
        const row = cnnJaxEngine.source(i - pads[0][0], height, mode), column = cnnJaxEngine.source(j - pads[1][0], width, mode);
        const at = (row * width + column) * channels, known = row >= 0 && column >= 0;
        const [red, green, blue] = [0, 1, 2].map((k) => (known ? pixels[at + (channels === 1 ? 0 : k)] : 0));
        context.fillStyle = `rgb(${red} ${green} ${blue})`;
        context.fillRect(8 * j, 8 * i, 8, 8);
      }
      context.strokeStyle = "#e69f00";
      context.lineWidth = canvas.height / 42;  // two pixels of the page
      context.strokeRect(8 * pads[1][0], 8 * pads[0][0], 8 * width, 8 * height);
    };

    const fill = (layer, { y }) => {
      let largest = 0;
      for (const value of y.data) largest = Math.max(largest, Math.abs(value));
      const flat = y.shape.length === 1;
      layer.querySelector(".scale").textContent = `, up to ${number(largest)}`;
      layer.querySelectorAll("canvas:not(.padded)").forEach((map, k) => drawMap(map, map.height, map.width,
        (i) => y.data[flat ? i : i * y.shape[2] + k], largest));
    };

    // The products behind the value that is pointed at, below its layer; and on the image what it sees.
    const explain = () => {
      const { n, k, i, j } = pointed, { step, x, y } = found[n];
      const flat = y.shape.length === 1, value = y.data[flat ? j : (i * y.shape[1] + j) * y.shape[2] + k];
      const where = flat ? `value ${j + 1}` : `map ${k + 1}, row ${i + 1}, column ${j + 1}`;
      const why = make("div", { className: "why" }, ...(window_(step, x, i, j, k) ?? dense(step, x, j) ?? []));
      why.prepend(make("p", { textContent: `${step.name}, ${where}: ${number(value)}` }));
      layers.querySelectorAll(".why").forEach((old) => old.remove());
      layers.children[n].append(why);
      const seen = step.fields && !flat ? [i, j].map((at, axis) => {
        const [start, size, jump] = step.fields[axis], most = [height, width][axis];
        return [Math.max(0, start + at * jump), Math.min(most, start + at * jump + size)];
      }) : null;
      outline(seen);
      if (!seen) return;
      const words = seen.map(([from, to], axis) => `${axis ? "columns" : "rows"} ${from + 1} to ${to}`);
      why.append(make("p", { textContent: `It sees ${words.join(", ")} of the image.` }), field(seen));
    };
    // A small copy of the image with what is seen, for windows in which the image itself is out of sight.
    const field = (seen) => {
      const copy = make("canvas", { className: "field", width: width * 8, height: height * 8 }), context = copy.getContext("2d");
      context.imageSmoothingEnabled = false;
      context.drawImage(canvas, 0, 0, copy.width, copy.height);
      context.strokeStyle = "#e69f00";
      context.lineWidth = copy.height / 42;
      context.strokeRect(8 * seen[1][0], 8 * seen[0][0], 8 * (seen[1][1] - seen[1][0]), 8 * (seen[0][1] - seen[0][0]));
      copy.setAttribute("aria-hidden", "true");
      return copy;
    };
    return { root, draw, shift, choose, answer, chosen: () => chosen };
  };

  // Two networks side by side: the best, and one to compare with.
  let waiting = false, later = 0;
  const redraw = () => {
    waiting = false;
    show(canvas, pixels);
    const shown = nets.filter((one) => one.chosen());
    for (const one of nets) one.draw();
    glance.textContent = shown.map((one) => one.answer.textContent).join(" | ");
    area.style.setProperty("--nets", shown.length);
    clearTimeout(later);
    later = setTimeout(() => shown.forEach((one) => one.shift()), 250);
  };
  const update = () => {
    if (!waiting) requestAnimationFrame(redraw);
    waiting = true;
  };
  const nets = [network("first", data.cells[0]), network("second", null)];
  const compare = button("Compare with another network", "set a second network beside this one", () => {
    const on = !nets[1].chosen();
    compare.setAttribute("aria-pressed", on);
    nets[1].choose(on ? beside(nets[0].chosen()) : null);
  });
  compare.className = "compare";
  compare.setAttribute("aria-pressed", "false");
  const area = make("div", { className: "nets" }, ...nets.map((one) => one.root));
  box.replaceChildren(desk, make("div", {}, ...(data.cells.length > 1 ? [compare] : []), area));
  box.explorer = { logits: (cell, values) => [...forward(data.cells[cell], values).data], pixels: () => pixels, redraw, data, nets };
  if (data.images.length) {
    const first = data.images[Math.min(7, data.images.length - 1)];
    pixels = bytes(first.pixels);
    named.textContent = first.name;
  }
  redraw();
}
