// The products behind a value of a layer, as elements.
const GRIDS = 6;  // channels that are shown

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
        if (value !== null && conv) cell.append(make("span", { textContent: `${number(value)} ` }), make("span", { textContent: `× ${number(weight)}` }));
        else cell.textContent = value === null ? "–" : number(value);
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
