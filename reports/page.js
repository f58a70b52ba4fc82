// Draws a report: the charts and tables of what the reader picks. Text is only ever set as text.
(() => {
  "use strict";
  const store = JSON.parse(document.getElementById("store").textContent);
  const chosen = store.picks.map((pick) => pick.default);
  const views = new Map();
  const sorting = new Map();

  // -- rows ------------------------------------------------------------------------------------

  const decoded = new Map();

  function columnsOf(name) {
    if (!decoded.has(name)) {
      const { rows, columns } = store.frames[name];
      const arrays = Object.entries(columns).map(([key, index]) => [key, decode(store.columns[index], rows)]);
      decoded.set(name, { rows, columns: new Map(arrays) });
    }
    return decoded.get(name);
  }

  function decode(column, rows) {
    if (Array.isArray(column)) return column;
    if ("same" in column) return new Array(rows).fill(column.same);
    return column.codes.map((code) => (code < 0 ? null : column.text[code]));
  }

  // Indices of the rows of what is picked; a size that a layer does not take is null and fits any.
  function pickedRows(name) {
    const { rows, columns } = columnsOf(name);
    const tests = store.picks
      .map((pick, i) => [columns.get(pick.column), pick.values[chosen[i]]])
      .filter(([values]) => values);
    const found = [];
    for (let row = 0; row < rows; row++) {
      if (tests.every(([values, wanted]) => values[row] === wanted || values[row] === null)) found.push(row);
    }
    return found;
  }

  function objects(name) {
    const { columns } = columnsOf(name);
    return pickedRows(name).map((row) => {
      const datum = {};
      for (const [key, values] of columns) datum[key] = values[row];
      return datum;
    });
  }

  // -- charts ----------------------------------------------------------------------------------

  const embedding = {
    ast: true, // no eval: the page's policy forbids it
    renderer: "svg",
    actions: { export: true, source: false, compiled: false, editor: false },
    logLevel: 1, // a band of no values is no news
  };

  function config(width) {
    const font = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif";
    const narrow = width < 560;
    return {
      font,
      background: null,
      axis: { labelFontSize: 11, titleFontSize: 12, titleFontWeight: 500, gridColor: "#e3e6ea", titlePadding: 8, labelSeparation: 6 },
      axisY: { labelLimit: narrow ? 170 : 250, minExtent: narrow ? 34 : 44 },
      legend: { labelFontSize: 12, rowPadding: 2, columnPadding: 14, labelLimit: Math.max(120, width - 110), columns: narrow ? 1 : width < 800 ? 2 : 4 },
      header: { labelFontSize: 12, labelFontWeight: 600 },
      point: { opacity: 1 }, // the library's 0.7 leaves open marks too dim on dark paper
      view: { stroke: null },
    };
  }

  async function draw(figure) {
    const plot = document.querySelector(`[data-figure="${figure.name}"] .plot`);
    const rows = objects(figure.frame);
    say(figure);
    if (!rows.length) {
      forget(figure);
      plot.textContent = "No data to draw.";
      return;
    }
    const series = drawnSeries(figure, rows);
    const known = views.get(figure.name);
    if (known) {
      if (series) known.signal("drawn", series);
      await known.data("rows", rows).resize().runAsync();
      await settle(known, plot);
      describe(figure, plot);
      return;
    }
    const spec = structuredClone(figure.spec);
    spec.data = { name: "rows", values: rows };
    if (series) spec.params.find(({ name }) => name === "drawn").value = series;
    spec.config = { ...spec.config, ...config(plot.clientWidth) };
    try {
      const { view } = await vegaEmbed(plot, spec, embedding);
      views.set(figure.name, view);
      await settle(view, plot);
      describe(figure, plot);
    } catch (error) {
      plot.textContent = `This chart could not be drawn: ${error.message}`;
    }
  }

  // Of the series that a chart deals its colours out to, those that have rows: its legend lists them.
  function drawnSeries(figure, rows) {
    const every = figure.spec.params?.find(({ name }) => name === "drawn")?.value;
    const present = new Set(rows.flatMap(Object.values));
    return every?.filter((name) => present.has(name));
  }

  // A faceted chart cannot follow its container by itself: its cells take what its axes leave.
  const faceted = new WeakMap();

  function measure(view, plot) {
    try {
      faceted.set(view, drawnWidth(plot) - view.signal("child_width"));
    } catch {
      faceted.delete(view); // a single view, which follows by itself
    }
  }

  function drawnWidth(plot) {
    return Number(plot.querySelector("svg").getAttribute("width"));
  }

  // A legend wider than the cells counts as axes at first: a few rounds find the width.
  async function settle(view, plot) {
    for (let i = 0; i < 4; i++) {
      measure(view, plot);
      await fit(view, plot);
      if (!faceted.has(view) || Math.abs(plot.clientWidth - drawnWidth(plot)) <= 2) return;
    }
  }

  async function fit(view, plot) {
    if (!faceted.has(view)) return;
    const width = Math.max(140, Math.floor(plot.clientWidth - faceted.get(view)));
    if (width !== view.signal("child_width")) await view.signal("child_width", width).resize().runAsync();
  }

  function say(figure) {
    const element = document.querySelector(`[data-figure="${figure.name}"]`);
    const mine = figure.picks.map((i) => chosen[i]).join(",");
    const finding = figure.findings[mine];
    element.querySelector(".finding").textContent = finding;
  }

  // To a screen reader the picture is an image, and the menu beside it is not in it, and has a name.
  function describe(figure, plot) {
    const picture = plot.querySelector(".chart-wrapper");
    const finding = plot.closest("figure").querySelector(".finding").textContent;
    picture.setAttribute("role", "img");
    picture.removeAttribute("aria-roledescription");
    picture.setAttribute("aria-label", `Chart. ${finding}. ${figure.about}`);
    plot.querySelector("summary").setAttribute("aria-label", "Save this chart");
  }

  // -- tables ----------------------------------------------------------------------------------

  const prefixes = [["P", 1e15], ["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3], ["", 1]];
  const small = [["", 1], ["m", 1e-3], ["µ", 1e-6], ["n", 1e-9]];

  function prefixed(value, scales, unit, digits) {
    if (value === 0) return `0 ${unit}`;
    // The rounded number has the prefix: 999.7 µs to three digits are 1 ms. Above the largest prefix it is in full.
    const rounded = Math.abs(Number(value.toPrecision(digits)));
    const [prefix, scale] = scales.find(([, s]) => rounded >= s * (1 - 1e-12)) ?? scales.at(-1);
    const large = rounded / scale >= 10 ** digits;
    const shown = large ? Math.round(value / scale).toLocaleString("en") : Number((value / scale).toPrecision(digits));
    return `${shown} ${prefix}${unit}`;
  }

  // "matrix:bf16" as "matrix engine, bf16"; another text as it is.
  function limit(value) {
    const [kind, dtype] = value.split(":");
    return Object.hasOwn(store.limits, kind) ? [store.limits[kind], dtype].filter(Boolean).join(", ") : value;
  }

  const writers = {
    text: String,
    count: (value) => Math.round(value).toLocaleString("en"),
    seconds: (value) => prefixed(value, small, "s", 3),
    bytes: (value) => prefixed(value, prefixes, "B", 3),
    flop: (value) => prefixed(value, prefixes, "FLOP", 3),
    limit,
    percent: (value) => `${value.toFixed(1)} %`,
    si: (value, unit) => prefixed(value, prefixes, unit, 4),
  };

  function compare(a, b) {
    if (a === null || b === null) return (a === null) - (b === null);
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  }

  function fill(table) {
    const element = document.querySelector(`[data-table="${table.name}"]`);
    const { rows, columns } = columnsOf(table.frame);
    const order = pickedRows(table.frame);
    const sorted = sorting.get(table.name);
    if (sorted) {
      const values = columns.get(table.columns[sorted.column].name);
      order.sort((i, j) => sorted.sign * compare(values[i], values[j]) || i - j);
    }
    const body = document.createElement("tbody");
    for (const row of order.slice(0, store.most_shown)) {
      const line = body.insertRow();
      for (const column of table.columns) {
        const cell = line.insertCell();
        const value = columns.get(column.name)[row];
        cell.className = column.kind;
        cell.textContent = value === null ? "" : writers[column.kind](value);
      }
    }
    element.querySelector("tbody").replaceWith(body);
    element.querySelector(".csv").textContent = `Export ${rows.toLocaleString("en")} rows as CSV`;
    const shown = Math.min(order.length, store.most_shown);
    element.querySelector(".shown").textContent = `Showing ${shown.toLocaleString("en")} of ${rows.toLocaleString("en")} rows.`;
  }

  function sortBy(table, index, header) {
    const before = sorting.get(table.name);
    const sign = before && before.column === index ? -before.sign : 1;
    sorting.set(table.name, { column: index, sign });
    for (const other of header.parentNode.children) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    fill(table);
  }

  // -- export ----------------------------------------------------------------------------------

  // A text that a spreadsheet would take for a formula is led by an apostrophe.
  function csvCell(value) {
    if (value === null) return "";
    if (typeof value === "number") return String(value);
    const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  }

  function toCsv(name) {
    const { rows, columns } = columnsOf(name);
    const lines = [[...columns.keys()].map(csvCell).join(",")];
    for (let row = 0; row < rows; row++) {
      lines.push([...columns.values()].map((values) => csvCell(values[row])).join(","));
    }
    return `${lines.join("\r\n")}\r\n`;
  }

  function exportCsv(table) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(["\ufeff", toCsv(table.frame)], { type: "text/csv" }));
    link.download = `${table.name}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  // -- the reader's choices --------------------------------------------------------------------

  // The choices live in the address, so that a view can be shared.
  function readAddress() {
    for (const [column, text] of new URLSearchParams(location.hash.slice(1))) {
      const i = store.picks.findIndex((pick) => pick.column === column);
      const value = i < 0 ? -1 : store.picks[i].values.findIndex((known) => String(known) === text);
      if (value >= 0) chosen[i] = value;
    }
  }

  function writeAddress() {
    const state = new URLSearchParams(store.picks.map((pick, i) => [pick.column, String(pick.values[chosen[i]])]));
    history.replaceState(null, "", `#${state}`);
  }

  async function show(changed = null) {
    for (const table of store.tables) {
      if (changed === null || columnsOf(table.frame).columns.has(changed)) fill(table);
    }
    for (const figure of store.figures) {
      if (changed === null || columnsOf(figure.frame).columns.has(changed)) await draw(figure);
    }
    document.documentElement.dataset.drawn = String(document.querySelectorAll(".plot svg.marks").length);
  }

  // A link to a part of the page goes there and leaves the address alone: it has the choices.
  for (const link of document.querySelectorAll("nav a, .skip")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      const part = document.querySelector(link.hash);
      part.tabIndex = -1;
      part.focus({ preventScroll: true });
      part.scrollIntoView();
    });
  }

  readAddress();
  store.picks.forEach((pick, i) => {
    const select = document.querySelector(`select[data-pick="${i}"]`);
    select.selectedIndex = chosen[i];
    select.addEventListener("change", () => {
      chosen[i] = select.selectedIndex;
      writeAddress();
      show(pick.column);
    });
  });
  for (const table of store.tables) {
    const element = document.querySelector(`[data-table="${table.name}"]`);
    element.querySelectorAll("th").forEach((header, index) => {
      header.querySelector("button").addEventListener("click", () => sortBy(table, index, header));
    });
    element.querySelector(".csv").addEventListener("click", () => exportCsv(table));
  }
  addEventListener("resize", () => {
    for (const [name, view] of views) fit(view, document.querySelector(`[data-figure="${name}"] .plot`));
  });
  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details")) details.open = true;
  });

  // -- a page whose rows are computed while it is read ---------------------------------------------

  // Puts rows in the place of a frame's; what a row does not have is null there.
  function replaceRows(name, rows) {
    const keys = [...new Set(rows.flatMap(Object.keys))];
    const columns = keys.map((key) => [key, rows.map((row) => row[key] ?? null)]);
    decoded.set(name, { rows: rows.length, columns: new Map(columns) });
  }

  // Sets what a figure or a table shows: its rows, and of a figure a sentence.
  function place(part, rows, finding) {
    replaceRows(part.frame, rows);
    if (finding !== undefined) part.findings[""] = finding;
  }

  // Forgets how a figure is drawn, where its axes have changed.
  function forget(figure) {
    views.get(figure.name)?.finalize();
    views.delete(figure.name);
  }

  if (store.live) window.costmodelPage = { store, writers, place, forget, show };
  else show();
})();
