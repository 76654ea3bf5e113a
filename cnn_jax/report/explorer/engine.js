"use strict";
// The forward pass of a trained network for one image. Arrays are channels last, (height, width, channels), flat, with their shape.
// A step is what lowering.py makes of a layer: {kind, name, shape, settings, arrays, paths}. Sums are taken in float64.
const cnnJaxEngine = (() => {
  const product = (shape) => shape.reduce((a, b) => a * b, 1);
  const zeros = (shape) => ({ shape, data: new Float32Array(product(shape)) });

  // erf by its series, and beyond 3 by the continued fraction of its complement (Abramowitz and Stegun 7.1.5 and 7.1.14).
  const erf = (x) => {
    const z = Math.abs(x);
    if (z > 6) return Math.sign(x);
    if (z < 3) {
      let term = z, sum = z;
      for (let n = 1; n < 80; n++) {
        term *= (-z * z) / n;
        sum += term / (2 * n + 1);
      }
      return (Math.sign(x) * 2 * sum) / Math.sqrt(Math.PI);
    }
    let fraction = 0;
    for (let n = 60; n > 0; n--) fraction = n / 2 / (z + fraction);
    return Math.sign(x) * (1 - Math.exp(-z * z) / ((z + fraction) * Math.sqrt(Math.PI)));
  };
  const activations = {
    linear: (x) => x,
    relu: (x) => Math.max(x, 0),
    leaky_relu: (x) => (x >= 0 ? x : 0.01 * x),
    relu6: (x) => Math.min(Math.max(x, 0), 6),
    elu: (x) => (x > 0 ? x : Math.expm1(x)),
    selu: (x) => 1.0507009873554805 * (x > 0 ? x : 1.6732632423543772 * Math.expm1(x)),
    gelu: (x) => (x / 2) * (1 + erf(x / Math.SQRT2)),
    silu: (x) => x / (1 + Math.exp(-x)),
    softplus: (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))),
    sigmoid: (x) => 1 / (1 + Math.exp(-x)),
    tanh: Math.tanh,
    scaled_tanh: (x) => 1.7159 * Math.tanh((x * 2) / 3),
  };
  const activate = (y, name) => {
    const f = activations[name];
    if (name !== "linear") for (let i = 0; i < y.data.length; i++) y.data[i] = f(y.data[i]);
    return y;
  };

  // Where a position in the padded image comes from along an axis of n: an index, or -1 for a zero.
  const source = (i, n, mode) => {
    if (i >= 0 && i < n) return i;
    if (mode === "replicate") return i < 0 ? 0 : n - 1;
    if (mode === "circular") return ((i % n) + n) % n;
    if (mode === "symmetric") return i < 0 ? -1 - i : 2 * n - 1 - i;
    if (mode === "reflect") return i < 0 ? -i : 2 * n - 2 - i;
    return -1;
  };
  // For each output and tap along an axis the index in the input, or -1.
  const taps = (n, outputs, axis, { size, strides, dilation, pads, mode }) => {
    const out = [];
    for (let o = 0; o < outputs; o++)
      for (let k = 0; k < size[axis]; k++) out.push(source(o * strides[axis] - pads[axis][0] + k * dilation[axis], n, mode));
    return out;
  };

  const conv = (x, step) => {
    const { size, groups, activation } = step.settings, { kernel, bias } = step.arrays;
    const [h, w, c] = x.shape, [oh, ow, f] = step.shape, y = zeros(step.shape);
    const rows = taps(h, oh, 0, step.settings), columns = taps(w, ow, 1, step.settings);
    const inGroup = c / groups, outGroup = f / groups, sums = new Float64Array(f);
    for (let i = 0; i < oh; i++) for (let j = 0; j < ow; j++) {
      sums.set(bias.data);
      for (let a = 0; a < size[0]; a++) {
        const row = rows[i * size[0] + a];
        if (row < 0) continue;
        for (let b = 0; b < size[1]; b++) {
          const column = columns[j * size[1] + b];
          if (column < 0) continue;
          const at = (row * w + column) * c, tap = (a * size[1] + b) * inGroup * f;
          for (let k = 0; k < c; k++) {
            const value = x.data[at + k];
            if (value === 0) continue;
            const group = (k / inGroup) | 0, first = group * outGroup, weights = tap + (k - group * inGroup) * f;
            for (let o = first; o < first + outGroup; o++) sums[o] += value * kernel.data[weights + o];
          }
        }
      }
      y.data.set(sums, (i * ow + j) * f);
    }
    return activate(y, activation);
  };

  const convTranspose = (x, step) => {
    const { size, strides, dilation, pads, groups, activation } = step.settings, { kernel, bias } = step.arrays;
    const [h, w, c] = x.shape, [oh, ow, f] = step.shape, sums = new Float64Array(oh * ow * f);
    const inGroup = c / groups, outGroup = f / groups;
    for (let i = 0; i < h; i++) for (let j = 0; j < w; j++)
      for (let a = 0; a < size[0]; a++) for (let b = 0; b < size[1]; b++) {
        const row = i * strides[0] + a * dilation[0] - pads[0][0], column = j * strides[1] + b * dilation[1] - pads[1][0];
        if (row < 0 || row >= oh || column < 0 || column >= ow) continue;
        for (let k = 0; k < c; k++) {
          const value = x.data[(i * w + j) * c + k], group = (k / inGroup) | 0;
          for (let o = 0; o < outGroup; o++)
            sums[(row * ow + column) * f + group * outGroup + o] += value * kernel.data[((a * size[1] + b) * outGroup + o) * c + k];
        }
      }
    const y = zeros(step.shape);
    for (let i = 0; i < sums.length; i++) y.data[i] = sums[i] + bias.data[i % f];
    return activate(y, activation);
  };

  const pool = (x, step, mean) => {
    const { size, count_include_pad: all } = step.settings;
    const [h, w, c] = x.shape, [oh, ow] = step.shape, y = zeros(step.shape);
    const rows = taps(h, oh, 0, step.settings), columns = taps(w, ow, 1, step.settings);
    for (let i = 0; i < oh; i++) for (let j = 0; j < ow; j++) for (let k = 0; k < c; k++) {
      let best = -Infinity, sum = 0, count = 0;
      for (let a = 0; a < size[0]; a++) for (let b = 0; b < size[1]; b++) {
        const row = rows[i * size[0] + a], column = columns[j * size[1] + b];
        if (row < 0 || column < 0) continue;
        const value = x.data[(row * w + column) * c + k];
        best = Math.max(best, value);
        sum += value;
        count++;
      }
      y.data[(i * ow + j) * c + k] = mean ? sum / (all ? size[0] * size[1] : count) : best;
    }
    return y;
  };

  const overPlaces = (x, step, start, join, end) => {
    const c = x.shape[2], places = x.data.length / c, y = zeros(step.shape);
    for (let k = 0; k < c; k++) {
      let value = start;
      for (let i = 0; i < places; i++) value = join(value, x.data[i * c + k]);
      y.data[k] = end(value, places);
    }
    return y;
  };

  // Group normalization over places and the channels of a group; groups 0: layer normalization, over the channels of a place.
  const norm = (x, step) => {
    const { groups, epsilon } = step.settings, { scale, bias } = step.arrays;
    const c = x.shape[x.shape.length - 1], places = x.data.length / c, y = zeros(x.shape);
    const width = groups ? c / groups : c, parts = groups || places;
    for (let part = 0; part < parts; part++) {
      const members = [];
      if (groups) for (let i = 0; i < places; i++) for (let k = part * width; k < (part + 1) * width; k++) members.push(i * c + k);
      else for (let k = 0; k < c; k++) members.push(part * c + k);
      let mean = 0, variance = 0;
      for (const at of members) mean += x.data[at] / members.length;
      for (const at of members) variance += (x.data[at] - mean) ** 2 / members.length;
      const factor = 1 / Math.sqrt(variance + epsilon);
      for (const at of members) y.data[at] = (x.data[at] - mean) * factor * scale.data[at % c] + bias.data[at % c];
    }
    return y;
  };

  const dense = (x, step) => {
    const { kernel, bias } = step.arrays, [inputs, units] = kernel.shape, y = zeros(step.shape), sums = new Float64Array(units);
    for (let place = 0; place < x.data.length / inputs; place++) {
      sums.set(bias.data);
      for (let i = 0; i < inputs; i++) {
        const value = x.data[place * inputs + i];
        if (value !== 0) for (let o = 0; o < units; o++) sums[o] += value * kernel.data[i * units + o];
      }
      y.data.set(sums, place * units);
    }
    return activate(y, step.settings.activation);
  };

  const branch = (x, step, record) => {
    const parts = step.paths.map((path) => run(path, x, record)), y = zeros(step.shape);
    if (step.settings.merge !== "concat") {
      for (const part of parts) for (let i = 0; i < y.data.length; i++) y.data[i] += part.data[i];
      return y;
    }
    let first = 0;
    const c = step.shape[step.shape.length - 1];
    for (const part of parts) {
      const width = part.shape[part.shape.length - 1];
      for (let i = 0; i < part.data.length; i++) y.data[Math.floor(i / width) * c + first + (i % width)] = part.data[i];
      first += width;
    }
    return y;
  };

  const subsample = (x, step) => {
    const { size, activation } = step.settings, { scale, bias } = step.arrays;
    const settings = { size, strides: size, dilation: [1, 1], pads: [[0, 0], [0, 0]], count_include_pad: true };
    const y = pool(x, { ...step, settings }, true), c = x.shape[2];
    for (let i = 0; i < y.data.length; i++) y.data[i] = y.data[i] * size[0] * size[1] * scale.data[i % c] + bias.data[i % c];
    return activate(y, activation);
  };

  const padChannels = (x, step) => {
    const [, w, c] = x.shape, [oh, ow, f] = step.shape, [down, across] = step.settings.strides, y = zeros(step.shape);
    for (let i = 0; i < oh; i++) for (let j = 0; j < ow; j++) for (let k = 0; k < c; k++)
      y.data[(i * ow + j) * f + k] = x.data[(i * down * w + j * across) * c + k];
    return y;
  };

  const rbf = (x, step) => {
    const { codes } = step.arrays, [classes, length] = codes.shape, y = zeros(step.shape);
    for (let k = 0; k < classes; k++) {
      let sum = 0;
      for (let i = 0; i < length; i++) sum += (x.data[i] - codes.data[k * length + i]) ** 2;
      y.data[k] = -sum / 2;
    }
    return y;
  };

  const affine = (x, step) => {
    const { slope, shift } = step.arrays, c = slope.data.length, y = zeros(x.shape);
    for (let i = 0; i < y.data.length; i++) y.data[i] = x.data[i] * slope.data[i % c] + shift.data[i % c];
    return y;
  };

  const kinds = {
    conv,
    conv_transpose: convTranspose,
    max_pool: (x, step) => pool(x, step, false),
    avg_pool: (x, step) => pool(x, step, true),
    global_max: (x, step) => overPlaces(x, step, -Infinity, Math.max, (value) => value),
    global_avg: (x, step) => overPlaces(x, step, 0, (a, b) => a + b, (sum, places) => sum / places),
    affine,
    norm,
    dense,
    subsample,
    rbf,
    branch,
    residual: (x, step, record) => activate(branch(x, step, record), step.settings.activation),
    pad_channels: padChannels,
    activation: (x, step) => activate({ shape: x.shape, data: x.data.slice() }, step.settings.activation),
    flatten: (x, step) => ({ shape: step.shape, data: x.data }),
  };

  // Run steps in order; `record` is called with each step, its input and its output.
  const run = (steps, x, record) => {
    for (const step of steps) {
      const y = kinds[step.kind](x, step, record);
      if (record) record(step, x, y);
      x = y;
    }
    return x;
  };

  // Pixels of 0 to 255 as the network was given them: see cnn_jax/data/normalization.py.
  const normalized = (pixels, shape, { kind, mean, std }) => {
    const x = { shape, data: Float32Array.from(pixels) }, n = x.data.length, c = shape[2];
    if (kind === "standardize") {
      let sum = 0, squares = 0;
      for (const value of x.data) sum += value / n;
      for (const value of x.data) squares += (value - sum) ** 2 / n;
      const deviation = Math.sqrt(Math.max(squares, 1 / n));
      for (let i = 0; i < n; i++) x.data[i] = (x.data[i] - sum) / deviation;
      return x;
    }
    for (let i = 0; i < n; i++) {
      x.data[i] /= 255;
      if (kind === "per_channel") x.data[i] = (x.data[i] - mean[i % c]) / std[i % c];
    }
    return x;
  };

  const softmax = (logits) => {
    const top = Math.max(...logits), shares = Array.from(logits, (value) => Math.exp(value - top));
    const sum = shares.reduce((a, b) => a + b, 0);
    return shares.map((share) => share / sum);
  };

  // IEEE 754 half precision to single.
  const fromHalf = (bits) => {
    const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
    return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : (fraction / 1024) * 2 ** -14);
  };

  // Replace the references of steps, [offset, ...shape], by arrays out of base64: little-endian floats of 4 or 2 bytes.
  const attach = (steps, text, bytes) => {
    const raw = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)), view = new DataView(raw.buffer);
    const visit = (list) => list.map((step) => {
      const arrays = Object.fromEntries(Object.entries(step.arrays).map(([name, [offset, ...shape]]) => {
        const array = zeros(shape);
        for (let i = 0; i < array.data.length; i++)
          array.data[i] = bytes === 4 ? view.getFloat32((offset + i) * 4, true) : fromHalf(view.getUint16((offset + i) * 2, true));
        return [name, array];
      }));
      return { ...step, arrays, paths: step.paths.map(visit) };
    });
    return visit(steps);
  };

  return { run, normalized, softmax, attach, source, activations };
})();
