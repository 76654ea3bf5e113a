// The part of the page that shows what the networks compute: drawing, maps, probabilities, and the products behind a value.
for (const box of document.querySelectorAll(".cnn-jax .explorer:not([data-ready])")) {
  box.dataset.ready = "";
  const data = JSON.parse(box.nextElementSibling.textContent);
  const [height, width, channels] = data.shape, MAPS = 32, CLASSES = 12, GRIDS = 6;
  const make = (tag, fields = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), fields);
    element.append(...children);
    return element;
  };
  const bytes = (text) => Uint8ClampedArray.from(atob(text), (letter) => letter.charCodeAt(0));
  const number = (value) => (Math.abs(value) < 5e-4 ? "0" : value.toPrecision(3).replace("-", "−"));
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
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "the image: draw here, or move with the arrow keys and paint with space");
  const over = make("canvas", { className: "over", width: width * 8, height: height * 8 });
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
    update();
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture?.(event.pointerId);
    last = null;
    stroke(place(event));
  });
  canvas.addEventListener("pointermove", (event) => { if (last) stroke(place(event)); });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { last = null; });
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    const move = moves[event.key];
    if (move) {
      cursor.row = Math.min(height - 1, Math.max(0, cursor.row + move[0]));
      cursor.column = Math.min(width - 1, Math.max(0, cursor.column + move[1]));
      outline([[cursor.row, cursor.row + 1], [cursor.column, cursor.column + 1]]);
    } else if (event.key === " ") {
      paint(cursor.row + 0.5, cursor.column + 0.5);
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
    context.lineWidth = 3;
    context.strokeRect(area[1][0] * 8, area[0][0] * 8, (area[1][1] - area[1][0]) * 8, (area[0][1] - area[0][0]) * 8);
  };
  const button = (textContent, title, action) => {
    const one = make("button", { type: "button", textContent, title });
    one.addEventListener("click", action);
    return one;
  };
  const take = (values) => {
    pixels = Uint8ClampedArray.from(values);
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
    button("Clear", "an empty image", () => take(new Uint8ClampedArray(pixels.length))), eraser,
    button("Centre", "move the centre of mass to the middle, as the digits of MNIST were", () => take(centred(pixels))),
    ...[["←", 0, -1, "left"], ["→", 0, 1, "right"], ["↑", -1, 0, "up"], ["↓", 1, 0, "down"]].map(([arrow, down, right, word]) =>
      button(arrow, `shift the image ${word} by a pixel`, () => take(shifted(pixels, down, right)))));
  if (channels > 1) buttons.append(colour);
  eraser.addEventListener("click", () => eraser.setAttribute("aria-pressed", eraser.getAttribute("aria-pressed") !== "true"));
  const strip = make("div", { className: "strip" }, ...data.images.map((one) => {
    const values = bytes(one.pixels), small = make("canvas", { width, height });
    show(small, values);
    const pick = button("", one.name, () => take(values));
    pick.setAttribute("aria-label", one.name);
    pick.append(small);
    return pick;
  }));
  const desk = make("div", { className: "desk" }, make("div", { className: "drawing" }, canvas, over), buttons, strip);

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

  const network = (chosen, optional) => {
    const menu = make("select");
    menu.setAttribute("aria-label", optional ? "network to compare with" : "network");
    if (optional) menu.append(make("option", { value: "", textContent: "compare with another network" }));
    data.cells.forEach((cell, i) => menu.append(make("option", { value: i, textContent: cell.label })));
    menu.value = chosen;
    const says = make("p", { className: "says" }), bars = make("div", { className: "bars" }), layers = make("div");
    says.setAttribute("aria-live", "polite");
    const body = make("div", {}, says, bars, layers), root = make("div", { className: "net" }, menu, body);
    const open = new Set();
    let found = [], built = null, pointed = null;

    const draw = () => {
      const cell = data.cells[menu.value];
      body.hidden = !cell;
      if (!cell) return;
      found = [];
      steps(cell);
      const before = performance.now();
      const logits = forward(cell, pixels, (step, x, y) => found.push({ step, x, y })).data;
      const time = performance.now() - before;
      const shares = cnnJaxEngine.softmax(logits), order = shares.map((_, i) => i).sort((a, b) => shares[b] - shares[a]);
      const best = order[0];
      says.replaceChildren(`${data.classes[best]}: ${(100 * shares[best]).toFixed(1)} %`,
        make("small", { textContent: `${cell.label}, seed ${cell.seed}, ${cell.value}; ${time.toFixed(1)} ms` }), stability);
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

    const stability = make("small");
    // Of the eight shifts by one pixel, those that leave the answer as it is.
    const shift = () => {
      const cell = data.cells[menu.value];
      if (!cell) return;
      const answer = (values) => forward(cell, values).data.reduce((best, v, i, all) => (v > all[best] ? i : best), 0);
      const now = answer(pixels);
      let same = 0;
      for (const down of [-1, 0, 1]) for (const right of [-1, 0, 1]) if (down || right) same += answer(shifted(pixels, down, right)) === now;
      stability.textContent = `the same answer for ${same} of the 8 shifts by one pixel`;
    };

    const build = () => layers.replaceChildren(...found.map(({ step, y }, n) => {
      const title = make("h3", {}, `${step.name} `, make("small", { textContent: `${step.kind.replaceAll("_", " ")}, ${y.shape.join("×")}` }));
      const maps = make("div", { className: "maps" });
      const flat = y.shape.length === 1, all = flat ? 1 : y.shape[2], count = open.has(step.name) ? all : Math.min(all, MAPS);
      for (let k = 0; k < count; k++) {
        const map = make("canvas", { className: flat ? "flat" : "", width: flat ? y.shape[0] : y.shape[1], height: flat ? 1 : y.shape[0], tabIndex: 0 });
        map.setAttribute("role", "img");
        map.setAttribute("aria-label", flat ? `${step.name}: ${y.shape[0]} values; arrow keys move` : `${step.name}, map ${k + 1}; arrow keys move`);
        const point = (i, j) => {
          pointed?.map.classList.remove("pointed");
          pointed = { n, k, i: Math.min(map.height - 1, Math.max(0, i)), j: Math.min(map.width - 1, Math.max(0, j)), map };
          map.classList.add("pointed");
          explain();
        };
        const at = (event) => {
          const area = map.getBoundingClientRect();
          point(Math.floor(((event.clientY - area.top) / area.height) * map.height), Math.floor(((event.clientX - area.left) / area.width) * map.width));
        };
        map.addEventListener("pointermove", at);
        map.addEventListener("pointerdown", at);
        map.addEventListener("keydown", (event) => {
          const move = moves[event.key], here = pointed?.map === map ? pointed : { i: 0, j: -1 };
          if (!move) return;
          point(here.i + move[0], here.j + move[1]);
          event.preventDefault();
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
      if (step.kind !== "conv" || !step.settings.pads.flat().some(Boolean)) return [];
      const { pads, mode } = step.settings;
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
      context.lineWidth = 2;
      context.strokeRect(8 * pads[1][0], 8 * pads[0][0], 8 * width, 8 * height);
    };

    const fill = (layer, { y }) => {
      let largest = 0;
      for (const value of y.data) largest = Math.max(largest, Math.abs(value));
      const flat = y.shape.length === 1;
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
      outline(step.fields && !flat ? [i, j].map((at, axis) => {
        const [start, size, jump] = step.fields[axis], most = [height, width][axis];
        return [Math.max(0, start + at * jump), Math.min(most, start + at * jump + size)];
      }) : null);
    };
    menu.addEventListener("change", () => { update(); });
    return { root, draw, shift, menu };
  };

  // A convolution's or a pooling's window over its input: a table of numbers per channel, padding marked.
  const window_ = (step, x, i, j, k) => {
    const { size, strides, dilation, pads, mode, groups } = step.settings;
    if (!["conv", "max_pool", "avg_pool"].includes(step.kind)) return null;
    const [h, w, c] = x.shape, conv = step.kind === "conv", f = step.shape[2];
    const first = conv ? Math.floor(k / (f / groups)) * (c / groups) : k, count = conv ? c / groups : 1;
    const tables = [];
    for (let channel = first; channel < first + count; channel++) {
      const cells = [];
      for (let a = 0; a < size[0]; a++) for (let b = 0; b < size[1]; b++) {
        const row = i * strides[0] - pads[0][0] + a * dilation[0], column = j * strides[1] - pads[1][0] + b * dilation[1];
        const [from, to] = [cnnJaxEngine.source(row, h, mode), cnnJaxEngine.source(column, w, mode)];
        const outside = row < 0 || row >= h || column < 0 || column >= w;
        const value = from < 0 || to < 0 ? (conv ? 0 : null) : x.data[(from * w + to) * c + channel];
        const weight = conv ? step.arrays.kernel.data[((a * size[1] + b) * (c / groups) + channel - first) * f + k] : 1;
        cells.push({ value, weight, outside });
      }
      tables.push({ channel, cells, sum: cells.reduce((sum, one) => sum + (one.value ?? 0) * one.weight, 0) });
    }
    const total = tables.reduce((sum, one) => sum + one.sum, 0);
    const shown = tables.slice().sort((a, b) => Math.abs(b.sum) - Math.abs(a.sum)).slice(0, GRIDS);
    const largest = Math.max(...tables[0].cells.map((one) => one.value ?? -Infinity));
    const grids = make("div", { className: "grids" }, ...shown.map(({ channel, cells, sum }) => {
      const table = make("table", {}, make("caption", { textContent: conv && count > 1 ? `channel ${channel + 1}: ${number(sum)}` : "" }));
      for (let a = 0; a < size[0]; a++) {
        const row = table.insertRow();
        for (let b = 0; b < size[1]; b++) {
          const { value, weight, outside } = cells[a * size[1] + b], cell = row.insertCell();
          cell.textContent = value === null ? "–" : conv ? `${number(value)} × ${number(weight)}` : number(value);
          if (outside) cell.className = "filled";
          if (step.kind === "max_pool" && value === largest) cell.className = "won";
        }
      }
      return table;
    }));
    if (!conv) return [make("p", { textContent: step.kind === "max_pool" ? "largest of" : "mean of" }), grids];
    const bias = step.arrays.bias.data[k], { activation } = step.settings;
    const more = count > GRIDS ? `The ${GRIDS} channels of ${count} that add most. ` : "";
    const end = activation === "linear" ? "" : `; ${activation} of that is ${number(cnnJaxEngine.activations[activation](total + bias))}`;
    return [make("p", { textContent: `${more}Products ${number(total)} + bias ${number(bias)} = ${number(total + bias)}${end}.` }), grids];
  };
  const dense = (step, x, unit) => {
    if (step.kind !== "dense" || x.shape.length !== 1) return null;
    const { kernel, bias } = step.arrays, units = kernel.shape[1];
    const parts = Array.from(x.data, (value, i) => ({ i, value, weight: kernel.data[i * units + unit] }));
    parts.sort((a, b) => Math.abs(b.value * b.weight) - Math.abs(a.value * a.weight));
    const listed = parts.slice(0, 8).map(({ i, value, weight }) => `[${i + 1}] ${number(value)} × ${number(weight)}`).join(", ");
    return [make("p", { textContent: `Largest of ${parts.length} products: ${listed}; bias ${number(bias.data[unit])}.` })];
  };

  // Two networks side by side: the best, and one to compare with.
  const nets = [network("0", false), network("", true)];
  let waiting = false, later = 0;
  const redraw = () => {
    waiting = false;
    show(canvas, pixels);
    const shown = nets.filter((one) => one.menu.value !== "");
    for (const one of nets) one.draw();
    area.style.setProperty("--nets", shown.length);
    clearTimeout(later);
    later = setTimeout(() => shown.forEach((one) => one.shift()), 250);
  };
  const update = () => {
    if (!waiting) requestAnimationFrame(redraw);
    waiting = true;
  };
  const area = make("div", { className: "nets" }, ...nets.map((one) => one.root));
  box.replaceChildren(desk, area);
  box.explorer = { logits: (cell, values) => [...forward(data.cells[cell], values).data], pixels: () => pixels, redraw, data };
  if (data.images.length) pixels = bytes(data.images[Math.min(7, data.images.length - 1)].pixels);
  redraw();
}
