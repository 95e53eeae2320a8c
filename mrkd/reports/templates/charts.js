// Unpacks plotly.js, then draws each chart when it comes near the window.
(async () => {
  const charts = document.querySelectorAll(".chart");
  if (!charts.length) return;
  try {
    const packed = atob(document.getElementById("plotly").textContent);
    const bytes = Uint8Array.from(packed, (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  } catch (error) {
    charts.forEach((chart) => chart.append("This browser is too old for the charts; one of 2023 or later shows them."));
    return;
  }
  const draw = (chart) => {
    const spec = JSON.parse(chart.querySelector("script").textContent);
    Plotly.newPlot(chart, spec.data, spec.layout, { displayModeBar: false, responsive: true });
  };
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      draw(entry.target);
    }
  }, { rootMargin: "800px" });
  charts.forEach((chart) => seen.observe(chart));
  addEventListener("beforeprint", () => {
    // What is folded away is not printed.
    for (const chart of [...charts].filter((each) => each.checkVisibility())) {
      seen.unobserve(chart);
      draw(chart);
    }
  });
})();
