"use strict";
// Draws the charts from the JSON in the page and brings the samples to life. Without it the page still has all its text.
(() => {
  const data = JSON.parse(document.getElementById("charts").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const onPaper = { tall: { width: 700, height: 300 }, small: { width: 344, height: 200 } };
  let unit = "nats", printing = false;

  document.querySelectorAll(".needs-js").forEach((element) => { element.hidden = false; });

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const column = (rows, key) => rows.map((row) => row[key] ?? null);
  const has = (rows, key) => rows.some((row) => row[key] !== null && row[key] !== undefined);

  /** Mean over the neighbours of each value on both sides, weighted less the farther off, so that a falling curve is not followed late. */
  function smoothed(values, window) {
    const keep = Math.exp(-1 / window);
    const pass = (list) => {
      let sum = 0, weight = 0;
      return list.map((value) => {
        sum = sum * keep + (value ?? 0);
        weight = weight * keep + (value === null ? 0 : 1);
        return [sum, weight];
      });
    };
    const before = pass(values), after = pass([...values].reverse()).reverse();
    return values.map((value, i) => (value === null ? null : (before[i][0] + after[i][0] - value) / (before[i][1] + after[i][1] - 1)));
  }

  function layout(title, more = {}) {
    const axis = { gridcolor: colour("line"), zeroline: false, linecolor: colour("line"), tickfont: { size: 11 }, automargin: true };
    return {
      title: { text: title, font: { size: 13, color: colour("soft") }, x: 0, xanchor: "left", xref: "paper", y: 1, yref: "container", yanchor: "top", pad: { t: 10, l: 2 } },
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("ink") },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 52, r: 22, t: 40, b: 42 },
      hovermode: "x unified",
      hoverlabel: { bgcolor: colour("card"), bordercolor: colour("line"), font: { color: colour("ink"), size: 12 } },
      showlegend: false,
      legend: { orientation: "h", x: 1, xanchor: "right", y: 1.0, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)" },
      ...more,
      xaxis: { ...axis, showgrid: false, tickformat: ",d", title: { text: "step", font: { size: 11, color: colour("soft") }, standoff: 6 }, ...(more.xaxis ?? {}) },
      yaxis: { ...axis, ...(more.yaxis ?? {}) },
      ...(more.yaxis2 ? { yaxis2: { ...axis, overlaying: "y", side: "right", showgrid: false, ...more.yaxis2 } } : {}),
    };
  }

  function draw(id, traces, shape) {
    const element = document.getElementById(id);
    if (!element) return;
    if (!traces.length) { element.classList.add("empty"); return; }
    element.querySelector("noscript")?.remove();
    const size = element.classList.contains("tall") ? onPaper.tall : onPaper.small;
    if (shape.showlegend && !printing && element.clientWidth < 560) {
      shape.legend = { ...shape.legend, x: 0, xanchor: "left" };
      shape.margin = { ...shape.margin, t: 60 };
    }
    const sized = printing ? { ...shape, ...size, font: { ...shape.font, size: 9 } } : { ...shape, autosize: true, width: undefined, height: undefined };
    Plotly.react(element, traces, sized, { responsive: true, displayModeBar: false });
    if (!printing) Plotly.Plots.resize(element);
  }

  const line = (x, y, name, tone, more = {}) => ({
    x, y, name, type: "scatter", mode: "lines", line: { color: colour(tone), width: 2, ...(more.line ?? {}) }, connectgaps: true,
    ...Object.fromEntries(Object.entries(more).filter(([key]) => key !== "line")),
  });

  function lossTraces(curves, inBits) {
    const factor = inBits ? data.bitsPerNat : 1;
    const scale = (values) => values.map((value) => (value === null ? null : value * factor));
    const traces = [];
    if (curves.train.length) {
      const x = column(curves.train, "step"), y = scale(column(curves.train, "train/loss"));
      traces.push(line(x, y, "step", "train-pale", { line: { width: 1 }, hoverinfo: "skip" }));
      traces.push(line(x, smoothed(y, Math.max(2, y.length / 80)), "training, mean", "train", { hovertemplate: "%{y:.3f}" }));
    }
    if (curves.val.length) {
      const own = inBits && has(curves.val, "val/bpb");
      const y = own ? column(curves.val, "val/bpb") : scale(column(curves.val, "val/loss"));
      const look = { mode: "lines+markers", marker: { size: 7, color: colour("val") }, hovertemplate: "%{y:.3f}" };
      traces.push(line(column(curves.val, "step"), y, "validation", "val", look));
    }
    return traces;
  }

  /** Leaves the first steep steps out of the first view, where they would flatten the rest; a double click shows all. */
  function lossRange(traces) {
    const steep = (trace) => (trace.mode === "lines" ? Math.floor(trace.y.length * 0.03) : 0);
    const settled = traces.flatMap((trace) => trace.y.slice(steep(trace)));
    const known = settled.filter((value) => value !== null);
    if (known.length < 2) return undefined;
    const low = known.reduce((a, b) => Math.min(a, b)), high = known.reduce((a, b) => Math.max(a, b));
    const room = (high - low || 1) * 0.06;
    return [low - room, high + room];
  }

  function drawLoss(id, curves, inBits, named) {
    const traces = lossTraces(curves, inBits);
    const title = named ?? (inBits ? "loss, bits per byte" : "loss, nats per token");
    draw(id, traces, layout(title, { showlegend: true, yaxis: { range: traces.length ? lossRange(traces) : undefined } }));
  }

  function drawAll() {
    if (!data.charted) return;
    const rows = data.pretrain.train, x = column(rows, "step");
    drawLoss("loss", data.pretrain, unit === "bits");
    drawLoss("sft", data.sft, false);
    data.post.forEach((stage, i) => {
      drawLoss(`post-${i}`, stage, false, stage.title);
      stage.measures.forEach((measure, j) => {
        const curve = (rows, key, tone, name) => (has(rows, key) ? [line(column(rows, "step"), column(rows, key), name, tone)] : []);
        const traces = [...curve(stage.train, `post/${measure}`, "train", "training"), ...curve(stage.val, `val/${measure}`, "val", "held out")];
        draw(`post-${i}-${j}`, traces, layout(measure.replaceAll("_", " ")));
      });
    });
    const simple = (id, key, title, tone, shape = {}, more = {}) =>
      draw(id, has(rows, key) ? [line(x, column(rows, key), title, tone, more)] : [], layout(title, shape));
    simple("lr", "lr", "learning rate", "fourth", { yaxis: { rangemode: "tozero", exponentformat: "e" } }, { hovertemplate: "%{y:.2e}<extra></extra>" });
    simple("grad", "grad_norm", "gradient norm", "third", { yaxis: { rangemode: "tozero" } }, { line: { width: 1.2 }, hovertemplate: "%{y:.3f}<extra></extra>" });
    simple("memory", "mem_gib", "peak memory, GiB", "soft", { yaxis: { rangemode: "tozero" } }, { hovertemplate: "%{y:.2f} GiB<extra></extra>" });
    const speed = has(rows, "tok_per_s") ? [line(x, column(rows, "tok_per_s"), "tokens per second", "val", { line: { width: 1.2 }, hovertemplate: "%{y:,.0f} tokens/s<extra></extra>" })] : [];
    const shape = { yaxis: { rangemode: "tozero" } };
    if (speed.length && has(rows, "mfu")) {
      // Both are the same curve in two units, so the right axis only translates the left one.
      const rate = column(rows, "tok_per_s"), share = column(rows, "mfu");
      speed[0].customdata = share;
      speed[0].hovertemplate = "%{y:,.0f} tokens/s, %{customdata:.0%} of peak<extra></extra>";
      const known = rate.map((value, i) => [value, share[i]]).filter(([value, part]) => value && part).map(([value, part]) => part / value).sort((a, b) => a - b);
      const perToken = known[Math.floor(known.length / 2)], top = 1.08 * Math.max(...rate);
      shape.yaxis = { range: [0, top] };
      shape.yaxis2 = { range: [0, top * perToken], tickformat: ".0%" };
      speed.push({ x: [x[0]], y: [0], yaxis: "y2", type: "scatter", mode: "markers", marker: { opacity: 0 }, hoverinfo: "skip", showlegend: false });
    }
    draw("speed", speed, layout(shape.yaxis2 ? "tokens per second, share of peak" : "tokens per second", shape));
  }

  document.querySelectorAll(".toggle button").forEach((button) => {
    button.addEventListener("click", () => {
      unit = button.dataset.unit;
      document.querySelectorAll(".toggle button").forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
      drawAll();
    });
  });

  document.querySelectorAll(".samples").forEach((box) => {
    const slider = box.querySelector("input"), output = box.querySelector("output"), shown = box.querySelector(".player .text");
    const rows = [...box.querySelectorAll("tbody tr")];
    const show = () => {
      const [step, text] = rows[Number(slider.value)].children;
      output.textContent = step.textContent;
      shown.replaceChildren(...[...text.childNodes].map((node) => node.cloneNode(true)));
    };
    slider.addEventListener("input", show);
    box.querySelector("details").open = false;
    if (rows.length < 2) box.querySelector("label").hidden = true;
    show();
  });

  const print = (now) => {
    printing = now;
    document.documentElement.toggleAttribute("data-print", now);
    drawAll();
  };
  window.addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((element) => { element.open = true; });
    print(true);
  });
  window.addEventListener("afterprint", () => print(false));
  dark.addEventListener("change", drawAll);
  drawAll();
})();
