"use strict";
/* Draws each chart when it comes into view, at its available width, without rows hidden by filters. */
(() => {
  const config = JSON.parse(document.getElementById("chart-config").textContent);
  const tooltip = document.getElementById("tooltip");
  const NARROW = 640;
  const ERRORS = 1;
  const drawn = new Map();

  function showTooltip(handler, event, item, value) {
    const rows = value && typeof value === "object" ? Object.entries(value) : [];
    tooltip.hidden = rows.length === 0;
    tooltip.replaceChildren(
      ...rows.map(([name, text]) => {
        const line = document.createElement("div");
        const label = document.createElement("span");
        label.textContent = `${name} `;
        label.className = "soft";
        line.append(label, String(text));
        return line;
      }),
    );
    if (rows.length) {
      const { clientX, clientY } = event;
      const { offsetWidth, offsetHeight } = tooltip;
      const left = Math.min(clientX + 12, document.documentElement.clientWidth - offsetWidth - 8);
      const top = clientY + offsetHeight + 24 > innerHeight ? clientY - offsetHeight - 12 : clientY + 12;
      tooltip.style.left = `${Math.max(8, left)}px`;
      tooltip.style.top = `${Math.max(8, top)}px`;
    }
  }

  function fitted(specification, width) {
    if (specification.facet) {
      const inner = specification.spec.width + 60;
      specification.columns = Math.max(1, Math.min(specification.columns, Math.floor(width / inner)));
      if (width < inner) specification.spec.width = width - 70;
    } else if (specification.hconcat) {
      if (width < NARROW) {
        specification.vconcat = specification.hconcat;
        delete specification.hconcat;
      }
    } else {
      specification.width = width - 2;
      specification.autosize = { type: "fit-x", contains: "padding" };
    }
    return specification;
  }

  async function draw(figure) {
    const plot = figure.querySelector(".plot");
    const width = Math.floor(plot.clientWidth);
    if (!width) return;
    const specification = JSON.parse(figure.querySelector("script.specification").textContent);
    // An axis title wider than its axis would overflow the picture.
    const axisX = { ...config.axisX, titleAnchor: "end", titleLimit: width - 16 };
    specification.config = width < NARROW ? { ...config, axisX } : config;
    specification.data.values = specification.data.values.filter(({ row }) => !row || isShown(row));
    if (!specification.data.values.length) {
      plot.replaceChildren("No row of this chart matches the filters.");
      drawn.delete(figure);
      return;
    }
    const shown = new Set(specification.data.values.map(({ row }) => row)).size;
    const key = `${width} ${shown}`;
    if (drawn.get(figure) === key) return;
    drawn.set(figure, key);
    const target = document.createElement("div");
    await vegaEmbed(target, fitted(specification, width), {
      mode: "vega-lite",
      renderer: "svg",
      actions: false,
      // Expressions are interpreted: the page's policy forbids evaluating strings as code.
      ast: true,
      defaultStyle: false,
      logLevel: ERRORS,
      tooltip: showTooltip,
    });
    // The whole chart is one picture with its own text.
    for (const part of target.querySelectorAll("[role], [aria-roledescription]")) {
      part.removeAttribute("role");
      part.removeAttribute("aria-roledescription");
    }
    if (drawn.get(figure) === key) plot.replaceChildren(target);
  }

  const visible = new Set();
  const observer = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) {
          visible.add(target);
          draw(target);
        } else visible.delete(target);
      }
    },
    { rootMargin: "200px" },
  );
  for (const figure of document.querySelectorAll("figure.chart")) observer.observe(figure);
  let waiting = 0;
  const again = () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => visible.forEach(draw), 120);
  };
  addEventListener("resize", again);
  addEventListener("statechange", again);
})();
