"use strict";
// Hovering, touching or the arrow keys name the nearest point; a button of the legend shows or hides an arm.
for (const figure of document.querySelectorAll(".curves")) {
  const { x, y, series } = JSON.parse(figure.querySelector("script").textContent);
  const plot = figure.querySelector(".plot"), svg = figure.querySelector("svg");
  const hidden = new Set(), groups = [...svg.querySelectorAll("g")];
  const here = plot.appendChild(Object.assign(document.createElement("div"), { className: "here", hidden: true }));
  const tip = plot.appendChild(Object.assign(document.createElement("div"), { className: "tip", hidden: true }));
  tip.setAttribute("role", "status");
  let current = null;

  const across = value => (value - x[0]) / (x[1] - x[0]);
  const up = value => 1 - (value - y[0]) / (y[1] - y[0]);
  const points = series.flatMap((line, number) => line.points.map(([iteration, value]) => ({ number, line, iteration, value })));
  const shown = () => points.filter(point => !hidden.has(point.line.arm));

  function show(point) {
    current = point;
    here.hidden = tip.hidden = !point;
    svg.classList.toggle("chosen", Boolean(point));
    groups.forEach((group, number) => group.classList.toggle("near", Boolean(point) && number === point.number));
    if (!point) return;
    const left = across(point.iteration), top = up(point.value);
    here.style.left = tip.style.left = `${100 * left}%`;
    here.style.top = tip.style.top = `${100 * top}%`;
    tip.textContent = `${point.line.label}: ${point.value.toFixed(3)} after iteration ${point.iteration}`;
    tip.style.transform = `translate(${left > 0.5 ? "calc(-100% - 12px)" : "12px"}, ${top > 0.5 ? "-120%" : "20%"})`;
  }

  function nearest(event) {
    const box = plot.getBoundingClientRect();
    let best = null, least = 50 ** 2;
    for (const point of shown()) {
      const distance = (event.clientX - box.left - across(point.iteration) * box.width) ** 2
        + (event.clientY - box.top - up(point.value) * box.height) ** 2;
      const apart = point.line.mean ? distance / 2 : distance; // of two that are near, the thick one is meant
      if (apart < least) [best, least] = [point, apart];
    }
    show(best);
  }

  function step(key) {
    const all = shown();
    if (!all.length) return;
    if (!current || hidden.has(current.line.arm)) return show(all.at(-1));
    const own = all.filter(point => point.number === current.number);
    const column = all.filter(point => point.iteration === current.iteration).sort((a, b) => a.value - b.value);
    const [line, by] = key === "ArrowLeft" ? [own, -1] : key === "ArrowRight" ? [own, 1] : [column, key === "ArrowUp" ? 1 : -1];
    show(line[Math.min(Math.max(line.indexOf(current) + by, 0), line.length - 1)]);
  }

  plot.addEventListener("pointermove", nearest);
  plot.addEventListener("pointerdown", nearest);
  plot.addEventListener("pointerleave", () => show(null));
  plot.addEventListener("blur", () => show(null));
  plot.addEventListener("keydown", event => {
    if (event.key === "Escape") return show(null);
    if (!event.key.startsWith("Arrow")) return;
    event.preventDefault();
    step(event.key);
  });
  for (const button of figure.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const arm = Number(button.dataset.arm), on = hidden.delete(arm);
      if (!on) hidden.add(arm);
      button.setAttribute("aria-pressed", String(on));
      for (const group of groups) if (Number(group.dataset.arm) === arm) group.toggleAttribute("hidden", !on);
      show(null);
    });
  }
}

for (const track of document.querySelectorAll(".ends .track")) {
  const tip = Object.assign(document.createElement("div"), { className: "tip", hidden: true });
  track.appendChild(tip);
  track.addEventListener("pointermove", event => {
    const box = track.getBoundingClientRect(), place = event.clientX - box.left;
    const marks = [...track.querySelectorAll("[data-tip]")].map(mark => [Math.hypot(
      place - parseFloat(mark.style.left) / 100 * box.width,
      event.clientY - mark.getBoundingClientRect().top - mark.offsetHeight / 2), mark]);
    const [distance, mark] = marks.sort((a, b) => a[0] - b[0])[0] ?? [Infinity];
    tip.hidden = distance > 30;
    if (tip.hidden) return;
    tip.textContent = mark.dataset.tip;
    tip.style.left = mark.style.left;
    tip.style.transform = `translate(${place > box.width / 2 ? "calc(-100% - 12px)" : "12px"}, 4px)`;
  });
  track.addEventListener("pointerleave", () => { tip.hidden = true; });
}
