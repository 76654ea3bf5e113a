// Elements and numbers of the part of the page in which networks run.
const make = (tag, fields = {}, ...children) => {
  const { attributes = {}, ...properties } = fields, element = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};
const button = (textContent, title, action) => {
  const one = make("button", { type: "button", textContent, title });
  one.addEventListener("click", action);
  return one;
};
const number = (value) => (Math.abs(value) < 5e-4 ? "0" : value.toPrecision(3).replace("-", "−"));
const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
