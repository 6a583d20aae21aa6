(() => {
  /* The values of every curve at the logged step that is nearest to the pointer, or to the arrow keys. */
  const nearest = (steps, step) => {
    let low = 0;
    let high = steps.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (steps[middle] < step) low = middle;
      else high = middle;
    }
    return step - steps[low] < steps[high] - step ? low : high;
  };

  function follow(plot) {
    const curves = data.charts[plot.dataset.chart];
    const cursor = plot.querySelector(".cursor");
    const readout = plot.closest("figure").querySelector(".readout");
    const all = [...new Set(curves.flatMap((curve) => curve.steps))].sort((a, b) => a - b);
    const [first, last] = [all[0], all[all.length - 1]];
    let at = all.length;

    function show(index) {
      at = Math.max(0, Math.min(all.length - 1, index));
      const step = all[at];
      const x = `${(100 * (step - first)) / Math.max(1, last - first)}%`;
      cursor.setAttribute("x1", x);
      cursor.setAttribute("x2", x);
      cursor.classList.add("shown");
      const there = curves.filter(({ steps }) => steps[0] <= step && step <= steps[steps.length - 1]);
      const values = there.map((curve) => {
        const value = curve.values[nearest(curve.steps, step)].toLocaleString("en", { maximumSignificantDigits: 5 });
        return curve.name ? `${curve.name} ${value}` : value;
      });
      readout.textContent = `${data.words.step.replace("{step}", step.toLocaleString("en"))}: ${values.join(", ")}`;
    }

    plot.addEventListener("pointermove", (event) => {
      const box = plot.getBoundingClientRect();
      show(nearest(all, first + ((event.clientX - box.left) / box.width) * (last - first)));
    });
    plot.addEventListener("focus", () => { if (at === all.length) show(at); });
    plot.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -all.length, End: all.length }[event.key];
      if (move === undefined) return;
      event.preventDefault();
      show(at + move);
    });
  }

  for (const plot of document.querySelectorAll("[data-chart]")) follow(plot);
})();
