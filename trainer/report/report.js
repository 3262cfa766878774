"use strict";
// The picture under the pointer, or that the arrow keys lead to, in large, and marked in every map.
const look = document.getElementById("look");
const names = document.getElementById("names");
const maps = [...document.querySelectorAll(".map")].map((element) => ({
  element,
  points: [...element.children].sort((a, b) => a.dataset.n - b.dataset.n),
}));
const ROOM = 12;
const REACH = 40;
let shown = -1;

function hide() {
  if (shown < 0) return;
  for (const { points } of maps) points[shown].classList.remove("at");
  look.hidden = true;
  shown = -1;
}

function show(map, number) {
  if (number === shown) return;
  hide();
  for (const { points } of maps) points[number].classList.add("at");
  shown = number;
  const { columns, rows } = names.dataset;
  const across = (100 * (number % columns)) / Math.max(1, columns - 1);
  const down = (100 * Math.floor(number / columns)) / Math.max(1, rows - 1);
  look.firstElementChild.style.backgroundPosition = `${across}% ${down}%`;
  look.lastElementChild.replaceChildren(...names.children[number].cloneNode(true).childNodes);
  look.hidden = false;
  place(map, number);
}

/** Beside its point, inside the window. */
function place(map, number) {
  const point = map.points[number].getBoundingClientRect();
  const right = point.right + ROOM;
  const fits = right + look.offsetWidth < innerWidth;
  const left = fits ? right : point.left - ROOM - look.offsetWidth;
  const top = point.top + point.height / 2 - look.offsetHeight / 2;
  const inside = (at, most) => Math.max(4, Math.min(at, most - 4));
  look.style.left = `${inside(left, innerWidth - look.offsetWidth)}px`;
  look.style.top = `${inside(top, innerHeight - look.offsetHeight)}px`;
}

/** The number of the point of the map that is nearest to the pointer, -1 where none is near. */
function nearest(map, event) {
  const on = document.elementFromPoint(event.clientX, event.clientY);
  if (on && on.parentElement === map.element) return Number(on.dataset.n);
  let best = -1;
  let least = REACH;
  map.points.forEach((point, number) => {
    const box = point.getBoundingClientRect();
    const x = box.left + box.width / 2 - event.clientX;
    const y = box.top + box.height / 2 - event.clientY;
    const distance = Math.hypot(x, y);
    if (distance < least) [best, least] = [number, distance];
  });
  return best;
}

for (const map of maps) {
  const point = (event) => {
    const number = nearest(map, event);
    if (number < 0) hide();
    else show(map, number);
  };
  map.element.addEventListener("pointermove", point);
  map.element.addEventListener("pointerdown", point);
  map.element.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
  map.element.addEventListener("blur", hide);
  map.element.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") hide();
    if (!step) return;
    event.preventDefault();
    const count = map.points.length;
    show(map, (Math.max(shown, step < 0 ? 0 : -1) + step + count) % count);
  });
}
// Who leads by keys has the map scrolled into view, and the picture goes along.
function scrolled() {
  const led = maps.find(({ element }) => element === document.activeElement);
  if (led && shown >= 0) place(led, shown);
  else hide();
}
addEventListener("scroll", scrolled, { passive: true });
