// Computes the explorer's rows: the model is Vega expressions, run by Vega itself, without eval.
(() => {
  "use strict";
  const page = window.costmodelPage;
  const live = page.store.live;
  const form = document.querySelector(".controls");
  const status = form.querySelector(".status");
  const answerField = document.getElementById("answer");
  const figures = Object.fromEntries(page.store.figures.map((figure) => [figure.name, figure]));
  const tables = Object.fromEntries(page.store.tables.map((table) => [table.name, table]));
  const controls = new Map(live.controls.map((control) => [control.name, control]));
  const specs = new Map(page.store.figures.map((figure) => [figure.name, JSON.stringify(figure.spec)]));

  // -- the state: what the fields say, kept in the address -------------------------------------------

  const fields = new Map([...form.querySelectorAll("[data-state]")].map((field) => [field.dataset.state, field]));
  fields.get("along").append(
    ...alongSizes().map((name) => {
      const option = new Option(controls.get(name).words.replace(/ \[.*/, ""), name);
      option.defaultSelected = name === alongSizes()[0];
      return option;
    }),
  );
  const first = new Map([...fields].map(([name, field]) => [name, field.value]));

  // Curves run along sizes that every layer follows; heads cut the width, and would leave gaps.
  function alongSizes() {
    const names = live.controls.filter((control) => control.group === "size" && control.name !== "heads").map((c) => c.name);
    return names.includes("seq") ? ["seq", ...names.filter((name) => name !== "seq")] : names;
  }

  function readAddress() {
    const said = new URLSearchParams(location.hash.slice(1));
    for (const [name, field] of fields) {
      field.value = said.get(name) ?? first.get(name);
      if (field.tagName === "SELECT" && field.selectedIndex < 0) field.value = first.get(name);
    }
    for (const folded of form.querySelectorAll("details")) {
      if ([...folded.querySelectorAll("input[type=number]")].some((field) => field.value)) folded.open = true;
    }
  }

  function address() {
    const changed = [...fields].filter(([name, field]) => field.value !== first.get(name));
    return `#${new URLSearchParams(changed.map(([name, field]) => [name, field.value]))}`;
  }

  const choiceOf = (name) => fields.get(name)?.value;

  function sizesGiven() {
    const given = {};
    for (const [name, control] of controls) {
      const text = fields.get(name).value;
      if (control.group === "tile" && choiceOf("tile") !== "free") continue;
      if (text === "" && control.group === "more" && !fields.get(name).validity.badInput) continue;
      const value = Number(text);
      if (text === "" || !Number.isInteger(value) || value < 1 || value > control.largest) {
        throw new Error(`${control.words}: wanted a whole number from 1 to ${control.largest.toLocaleString("en")}`);
      }
      given[name] = value;
    }
    return given;
  }

  // -- the device: its figures, as they are or as the reader has set them ------------------------------

  function changes() {
    const found = {};
    for (const { name, scale } of live.figures) {
      const field = fields.get(`set-${name}`);
      if (field.disabled || (field.value === "" && !field.validity.badInput)) continue;
      const value = Number(field.value);
      if (field.value === "" || !(value > 0 && Number.isFinite(value))) {
        throw new Error(`${field.parentNode.textContent}: wanted a number above 0`);
      }
      found[name] = { value: value * scale, text: field.value };
    }
    return found;
  }

  function device(changed, dtype) {
    const base = live.devices.find((one) => one.name === choiceOf("device"));
    const own = { ...structuredClone(base), changed: Object.keys(changed).length > 0 };
    for (const [name, { value }] of Object.entries(changed)) {
      if (name === "peak" || name === "fp32") setRate(own, base, name === "peak" ? dtype : "fp32", value);
      else own[name] = value;
    }
    return own;
  }

  // The engine that is faster at a format has the new rate; its highest clock stays as far above.
  function setRate(own, base, dtype, value) {
    const rate = (engine) => base.rates[engine]?.[dtype]?.[0] ?? 0;
    const engine = rate("vector") > rate("matrix") ? "vector" : "matrix";
    own.rates[engine] = { ...own.rates[engine], [dtype]: [value, value * base.ratios[engine]] };
  }

  // The stated rate and that at the highest clock, of the faster of the two engines.
  function fastest(own, dtype) {
    const found = ["matrix", "vector"].map((engine) => own.rates[engine]?.[dtype]).filter(Boolean);
    return found.reduce((best, rate) => (best && best[1] >= rate[1] ? best : rate), undefined);
  }

  function rateOf(own, engine, dtype) {
    if (engine === "matrix") return fastest(own, dtype)?.[0];
    const table = own.rates[engine] ?? {};
    return (table[dtype] ?? (dtype === "fp64" ? undefined : table.fp32))?.[0];
  }

  function signalsOf(own, programs) {
    const values = {
      bandwidth: own.hbm,
      cache: Math.max(own.l2, own.l3),
      link: own.link ?? Infinity,
      step: own.step,
      launch: own.launch,
      sram: own.shared || 48 * 1024,
      onchip: Math.max(1, own.units * (own.shared + own.registers)),
    };
    for (const program of programs) {
      // Without a rate of its vector or special engine a term is absent; without a matrix rate nothing runs.
      for (const [engine, dtype] of program.rates) {
        values[`rate_${engine}_${dtype}`] = rateOf(own, engine, dtype) ?? (engine === "matrix" ? NaN : Infinity);
      }
      for (const dtype of program.boosts) values[`boost_${dtype}`] = fastest(own, dtype)?.[1] ?? Infinity;
    }
    return values;
  }

  function lacking(own, program) {
    const missing = program.rates.find(([engine, dtype]) => engine === "matrix" && !fastest(own, dtype));
    if (!missing) return null;
    const has = new Set([...Object.keys(own.rates.matrix ?? {}), ...Object.keys(own.rates.vector ?? {})]);
    return `${own.title} has no ${missing[1]} rate; it has ${[...has].join(", ")}`;
  }

  // -- the programs, as a Vega view without a picture ---------------------------------------------------

  let running = { key: null, view: null, layers: [] };

  function variantOf(layer) {
    return layer.variants[layer.takes.map(choiceOf).join("|")];
  }

  function stepsOf(layer, variant, given) {
    const own = layer.sizes.filter((name) => !(name in given));
    const sizes = [
      ...own.filter((name) => layer.required.includes(name)).map((name) => [name, live.tied[name]]),
      ...own.filter((name) => !layer.required.includes(name)).map((name) => [name, layer.defaults[name]]),
    ];
    const rules = variant.rules.map(([condition], i) => [`refused${i}`, condition]);
    return [...sizes, ...rules, ...variant.steps.map((i) => live.steps[i])];
  }

  async function load(given) {
    const layers = live.layers.map((layer) => ({ ...layer, variant: variantOf(layer) }));
    const key = JSON.stringify([layers.map((layer) => layer.takes.map(choiceOf)), Object.keys(given)]);
    if (running.key === key) return running;
    const programs = layers.filter((layer) => !layer.variant.refused);
    const names = Object.keys(signalsOf(live.devices[0], programs.map((layer) => layer.variant)));
    const spec = {
      signals: names.map((name) => ({ name, value: 1 })),
      data: [
        { name: "points", values: [] },
        ...programs.map((layer, i) => ({
          name: `layer${i}`,
          source: "points",
          transform: stepsOf(layer, layer.variant, given).map(([as, expr]) => ({ type: "formula", as, expr })),
        })),
      ],
    };
    programs.forEach((layer, i) => (layer.data = `layer${i}`));
    running.view?.finalize();
    const { view } = await vegaEmbed(document.createElement("div"), spec, { ast: true, mode: "vega", renderer: "none", actions: false });
    running = { key, view, layers };
    return running;
  }

  // Runs every program on rows of sizes; returns, for each layer, what it computed for each row.
  async function compute(rows, signals) {
    const { view, layers } = running;
    for (const [name, value] of Object.entries(signals)) view.signal(name, value);
    await view.data("points", rows.map((row, index) => ({ ...row, index }))).runAsync();
    return layers.map((layer) => {
      if (!layer.data) return rows.map(() => null);
      const found = new Array(rows.length).fill(null);
      for (const tuple of view.data(layer.data)) found[tuple.index] = sound(layer, tuple) ? tuple : null;
      return found;
    });
  }

  function sound(layer, tuple) {
    return Number.isFinite(tuple.seconds) && !complaint(layer, tuple);
  }

  function complaint(layer, tuple) {
    const broken = layer.sizes.find((name) => !Number.isInteger(tuple[name]) || tuple[name] < 1);
    if (broken) return `${layer.name}: ${broken} would be ${tuple[broken]}, which is no whole number`;
    const rule = layer.variant.rules.findIndex((_, i) => tuple[`refused${i}`]);
    return rule < 0 ? null : layer.variant.rules[rule][1];
  }

  // -- where one layer overtakes another: as costmodel.crossover finds it --------------------------------

  function orderOf(a, b) {
    if (!a || !b) return null;
    return Math.abs(a.seconds - b.seconds) <= 1e-12 * Math.abs(b.seconds) ? 0 : Math.sign(a.seconds - b.seconds);
  }

  function pairs(count) {
    const found = [];
    for (let i = 0; i < count; i++) for (let j = i + 1; j < count; j++) found.push([i, j]);
    return found;
  }

  // Every size up to 64, and 16 an octave beyond, as multiples of the least step.
  function grid(limit) {
    const points = new Set();
    for (let n = 1; n <= Math.min(64, limit); n++) points.add(n);
    for (let i = 0; i / 16 < Math.log2(limit) + 1 / 16; i++) points.add(Math.min(limit, Math.round(2 ** (i / 16))));
    return [...points].sort((a, b) => a - b);
  }

  async function crossovers(points, computed, rowAt, signals) {
    const open = [];
    const found = pairs(computed.length).map(([i, j]) => {
      const signs = points.map((_, k) => orderOf(computed[i][k], computed[j][k]));
      if (signs.includes(null)) return null;
      const pair = { i, j, changes: [], sequence: [signs[0]] };
      for (let k = 0; k + 1 < points.length; k++) {
        if (signs[k] === signs[k + 1]) continue;
        const bracket = { i, j, low: points[k], high: points[k + 1], before: signs[k] };
        pair.changes.push(bracket);
        pair.sequence.push(signs[k + 1]);
        open.push(bracket);
      }
      return pair;
    });
    for (let left = open; left.length; ) {
      left = left.filter((bracket) => bracket.high - bracket.low > 1);
      if (!left.length) break;
      const middles = left.map(({ low, high }) => Math.floor((low + high) / 2));
      const results = await compute(middles.map(rowAt), signals);
      left.forEach((bracket, k) => {
        const order = orderOf(results[bracket.i][k], results[bracket.j][k]);
        bracket[order === bracket.before ? "low" : "high"] = middles[k];
      });
    }
    return found.filter(Boolean).map((pair) => settle(pair));
  }

  // Joins a tie with what follows it: at a tie the first order has ended.
  function settle({ i, j, changes, sequence }) {
    const sizes = [];
    const orders = [sequence[0]];
    changes.forEach(({ high }, k) => {
      const now = sequence[k + 1];
      if (orders.at(-1) === 0 && sizes.length) {
        orders[orders.length - 1] = now;
        if (orders.length > 1 && orders.at(-2) === now) {
          orders.pop();
          sizes.pop();
        }
        return;
      }
      sizes.push(high);
      orders.push(now);
    });
    return { i, j, sizes, orders };
  }

  // -- one round: state in, numbers out ------------------------------------------------------------------

  async function explore() {
    const given = sizesGiven();
    const dtype = choiceOf("dtype") ?? "bf16";
    fields.get("set-fp32").disabled = dtype === "fp32";
    const changed = changes();
    const own = device(changed, dtype);
    const { layers } = await load(given);
    const problems = layers.map((layer) => layer.variant.refused ?? lacking(own, layer.variant));
    const signals = signalsOf(own, layers.map((layer) => layer.variant).filter((variant) => !variant.refused));
    const along = choiceOf("along");
    const unit = along === "width" && "heads" in given ? given.heads : 1;
    const limit = Math.max(1, Math.floor(controls.get(along).stops.at(-1) / unit));
    const rowAt = (n) => ({ ...given, [along]: n * unit });
    const computed = await compute([given], signals);
    const tuples = running.layers.map((layer) => (layer.data ? running.view.data(layer.data).find((t) => t.index === 0) : null));
    const now = computed.map((rows) => rows[0]);
    layers.forEach((layer, i) => (problems[i] ??= now[i] ? null : tuples[i] && complaint(layer, tuples[i])));
    const ahead = await curvesAlong(limit, rowAt, signals, unit);
    return { given, dtype, own, changed, layers, problems: [...new Set(problems.filter(Boolean))], along, unit, now, ...ahead, at: given[along] };
  }

  // Curves stay as they are while the reader moves along them.
  let known = { key: null };

  async function curvesAlong(limit, rowAt, signals, unit) {
    const key = JSON.stringify([running.key, limit, rowAt(1), signals]);
    if (known.key === key) return known;
    const points = grid(limit);
    const curves = await compute(points.map(rowAt), signals);
    const crossing = await crossovers(points, curves, rowAt, signals);
    for (const pair of crossing) pair.sizes = pair.sizes.map((n) => n * unit);
    known = { key, points, curves, crossing };
    return known;
  }

  // -- numbers as rows of charts and tables --------------------------------------------------------------

  const limitOf = (layer, tuple) => layer.variant.limits[tuple.bound];
  const alongWords = (name) => controls.get(name).words;

  function described(result, layer, tuple, kind, at) {
    const rate = tuple.matrix_flops / tuple.seconds;
    const peak = rateOf(result.own, "matrix", result.dtype);
    return {
      kind, label: layer.name, at, limit: limitOf(layer, tuple),
      seconds: tuple.seconds, lower_s: tuple.lower_s,
      intensity: tuple.matrix_flops / tuple.hbm_bytes, rate, share: rate / peak,
      footprint_bytes: tuple.footprint_bytes, note: null,
    };
  }

  // Four points an octave are drawn; crossovers are looked for at more.
  function curveRows(result) {
    const low = controls.get(result.along).stops[0];
    let last = 0;
    const shown = result.points.map((n, k) => {
      const drawn = n * result.unit >= low && (n >= last * 2 ** 0.249 || k === result.points.length - 1);
      if (drawn) last = n;
      return drawn;
    });
    return result.layers.flatMap((layer, i) =>
      result.points.flatMap((n, k) => {
        const tuple = result.curves[i][k];
        return tuple && shown[k] ? [described(result, layer, tuple, "curve", n * result.unit)] : [];
      }),
    );
  }

  function nowRows(result) {
    return result.layers.flatMap((layer, i) => (result.now[i] ? [described(result, layer, result.now[i], "now", result.at)] : []));
  }

  function roofRows(result, points) {
    const peak = rateOf(result.own, "matrix", result.dtype);
    const bandwidth = result.own.hbm;
    if (!peak || !points.length) return [];
    const ridge = peak / bandwidth;
    const decade = (value, round) => 10 ** round(Math.log10(value));
    const low = decade(Math.min(ridge, ...points.map((p) => p.intensity)), Math.floor);
    const high = decade(Math.max(ridge, ...points.map((p) => p.intensity)), Math.ceil);
    const note = `${si(peak, "FLOP/s")} · ${si(bandwidth, "B/s")} · ridge ${Math.round(ridge).toLocaleString("en")} FLOP/B`;
    return [low, ridge, high].map((x, i) => ({
      ...Object.fromEntries(Object.keys(points[0]).map((key) => [key, null])),
      kind: "roof", intensity: x, rate: Math.min(peak, bandwidth * x), note: i === 1 ? note : null,
    }));
  }

  // Rings where a curve that is the fastest just before or after crosses another.
  function crossRows(result, curve) {
    const rows = [];
    for (const { i, j, sizes } of result.crossing) {
      for (const size of sizes) {
        const k = result.points.findIndex((n) => n * result.unit >= size);
        const tuple = result.curves[i][k];
        const best = Math.min(...result.curves.map((c) => c[k]?.seconds ?? Infinity));
        if (!tuple || size < controls.get(result.along).stops[0]) continue;
        if (Math.min(tuple.seconds, result.curves[j][k].seconds) > best * 1.0001) continue;
        const near = described(result, result.layers[j], result.curves[j][k], "cross", size);
        rows.push({ ...near, note: size.toLocaleString("en") });
      }
    }
    return rows;
  }

  function waitingRows(result) {
    return result.layers.flatMap((layer, i) => {
      const t = result.now[i];
      if (!t) return [];
      const parts = [t.seconds, t.steps * result.own.step, t.launches * result.own.launch];
      return live.parts.map((part, order) => ({ label: layer.name, part, order, seconds: parts[order] }));
    });
  }

  function memoryRows(result) {
    return result.layers.flatMap((layer, i) => {
      const t = result.now[i];
      const fits = t && t.footprint_bytes <= result.own.hbm_capacity;
      const note = t && `${layer.name}: ${si(t.footprint_bytes, "B")}${fits ? "" : ", does not fit"}`;
      return t ? [{ label: layer.name, footprint_bytes: t.footprint_bytes, capacity_bytes: result.own.hbm_capacity, note }] : [];
    });
  }

  const counts = ["matrix_flops", "vector_flops", "special_flops", "hbm_bytes", "l2_bytes", "compulsory_bytes", "depth", "pram_depth", "path", "launches", "footprint_bytes", "kept_bytes", "parameters"];

  function tableRows(result) {
    return result.layers.flatMap((layer, i) => {
      const t = result.now[i];
      if (!t) return [];
      const numbers = Object.fromEntries(["seconds", "lower_s", "serial_s", "waiting_s", ...counts].map((name) => [name, t[name]]));
      const sizes = Object.fromEntries(layer.sizes.map((name) => [name, t[name]]));
      return [{ label: layer.name, device: deviceName(result), dtype: choiceOf("dtype") ?? "", rung: "bound", ...numbers, limit: limitOf(layer, t), ...sizes }];
    });
  }

  function crossingRows(result) {
    return result.crossing.flatMap(({ i, j, sizes, orders }) => {
      const [a, b] = [result.layers[i].name, result.layers[j].name];
      const who = (order) => (order < 0 ? a : order > 0 ? b : "neither");
      return [1, ...sizes].map((size, k) => ({ first: a, second: b, along: result.along, size, cheaper: who(orders[k]) }));
    });
  }

  // -- findings in words, from the numbers ----------------------------------------------------------------

  const prefixes = [["P", 1e15], ["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3], ["", 1]];

  function si(value, unit) {
    const [prefix, scale] = prefixes.find(([, s]) => value >= s) ?? prefixes.at(-1);
    return `${Number((value / scale).toPrecision(4))} ${prefix}${unit}`;
  }

  const time = (value) => page.writers.seconds(value);
  const listed = (items) => (items.length > 1 ? `${items.slice(0, -1).join(", ")} and ${items.at(-1)}` : items.join(""));
  const percent = (share) => `${share >= 0.1 ? Math.round(100 * share) : Number((100 * share).toPrecision(2))} %`;
  const ratio = (value) => `${value < 10 ? Number(value.toPrecision(2)) : Math.round(value).toLocaleString("en")} times`;

  function deviceName({ own }) {
    return own.changed ? `${own.name}*` : own.name;
  }

  function sized(result, value) {
    const words = alongWords(result.along);
    return words.includes("[tokens]") ? `${value.toLocaleString("en")} tokens` : `${words.replace(/ \[.*/, "")} ${value.toLocaleString("en")}`;
  }

  function findings(result) {
    const now = nowRows(result);
    if (!now.length) return Object.fromEntries(Object.keys(figures).map((name) => [name, listed(result.problems)]));
    return { roofline: roofFinding(now), time: timeFinding(result, now), waiting: waitingFinding(result), memory: memoryFinding(result) };
  }

  function roofFinding(now) {
    const said = now
      .filter((row) => row.rate > 0)
      .sort((a, b) => b.share - a.share)
      .map((row) => `${row.label} ${percent(row.share)} (limited by ${row.limit})`);
    return said.length ? `Share of the peak: ${listed(said)}` : "No matrix products, so nothing to place under the roof";
  }

  function timeFinding(result, now) {
    const order = [...now].sort((a, b) => a.seconds - b.seconds);
    const [best, worst] = [order[0], order.at(-1)];
    let text = `At ${sized(result, result.at)}, ${best.label} takes ${time(best.seconds)}`;
    if (worst.seconds > 1.005 * best.seconds) text += ` and ${worst.label} ${time(worst.seconds)}, ${ratio(worst.seconds / best.seconds)} as long`;
    const cuts = crossRows(result).sort((a, b) => a.at - b.at);
    if (now.length < 2) return text;
    return cuts.length ? `${text}; the fastest changes at ${listed([...new Set(cuts.map((row) => sized(result, row.at)))])}` : `${text}; the fastest is the same along the whole range`;
  }

  function waitingFinding(result) {
    const said = result.layers.flatMap((layer, i) => {
      const t = result.now[i];
      return t ? [[layer.name, t.waiting_s, (t.seconds + t.waiting_s) / t.seconds, t.steps]] : [];
    });
    const [name, wait, factor, steps] = said.reduce((most, one) => (one[2] > most[2] ? one : most));
    if (factor < 1.05) return `Waiting would add little: at most ${time(wait)}, to ${name}`;
    const chain = steps ? `its ${steps.toLocaleString("en")} dependent steps and its launches` : "its launches";
    return `Waiting weighs most on ${name}: ${chain} would add ${time(wait)}, ${ratio(factor)} the roofline's time in all`;
  }

  function memoryFinding(result) {
    const said = memoryRows(result).map((row) => [row.label, row.footprint_bytes <= row.capacity_bytes, row.footprint_bytes]);
    const out = said.filter(([, fits]) => !fits);
    const capacity = si(result.own.hbm_capacity, "B");
    if (out.length) return `Memory of ${capacity} does not hold ${listed(out.map(([name, , bytes]) => `${name} (${si(bytes, "B")})`))}`;
    const [name, , bytes] = said.reduce((most, one) => (one[2] > most[2] ? one : most));
    return `Memory of ${capacity} holds ${said.length > 1 ? "every layer" : name}; ${said.length > 1 ? `${name} takes most, ` : ""}${si(bytes, "B")}`;
  }

  // -- the same from the command line ----------------------------------------------------------------------

  const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`);

  function commands(result) {
    const { own, given, changed, dtype } = result;
    const set = Object.entries(changed).map(([name, { text }]) => {
      const unit = live.figures.find((figure) => figure.name === name).unit;
      return quoted(`${name === "peak" ? dtype : name}=${text} ${unit}`);
    });
    return result.layers.flatMap((layer, i) => {
      const t = result.now[i];
      if (!t || !layer.kind) return [];
      const chosen = layer.takes.map((name) => (name !== "tile" ? `${name}=${choiceOf(name)}` : choiceOf(name) === "free" ? `tile=${given.tile_rows}x${given.tile_cols}` : ""));
      const options = [...chosen, ...layer.options].filter(Boolean).join(",");
      const sizes = layer.sizes.map((name) => `${name}=${t[name]}`);
      const what = set.length ? ` --device-set ${set.join(" ")}` : "";
      return [`costmodel predict ${quoted(`${layer.kind}[${options}]`)} -m ${quoted(own.name)} -D ${sizes.join(" ")}${what} --rung bound`];
    });
  }

  // -- what the reader sees -----------------------------------------------------------------------------------

  function answer(result) {
    const layers = Object.fromEntries(tableRows(result).map((row) => [row.label, { ...row, bound: row.limit }]));
    const crossing = result.crossing.map(({ i, j, sizes, orders }) => ({ first: result.layers[i].name, second: result.layers[j].name, sizes, orders }));
    return { device: deviceName(result), along: result.along, layers, crossing, problems: result.problems, commands: commands(result) };
  }

  let shownAlong = null;

  async function show(result) {
    const curve = curveRows(result);
    const now = nowRows(result);
    const said = findings(result);
    if (shownAlong !== result.along) {
      shownAlong = result.along;
      for (const name of ["time", "roofline"]) {
        figures[name].spec = JSON.parse(specs.get(name).replaceAll(live.along, alongWords(result.along)));
        page.forget(figures[name]);
      }
    }
    const placed = (rows) => rows.filter((row) => row.rate > 0 && Number.isFinite(row.intensity));
    page.place(figures.roofline, [...placed(curve), ...placed(now), ...roofRows(result, placed([...curve, ...now]))], said.roofline);
    page.place(figures.time, [...curve, ...now, ...crossRows(result)], said.time);
    page.place(figures.waiting, waitingRows(result), said.waiting);
    page.place(figures.memory, memoryRows(result), said.memory);
    page.place(tables.now, tableRows(result));
    page.place(tables.crossovers, crossingRows(result));
    page.place(tables.curve, curve);
    say(result, said);
    await page.show();
  }

  function say(result, said) {
    const list = document.querySelector("#findings ul");
    const lines = [...new Set([...Object.values(said), ...result.problems])];
    list.replaceChildren(...lines.map((text) => Object.assign(document.createElement("li"), { textContent: `${text}.` })));
    const sizes = Object.entries(result.given).map(([name, value]) => `${name} = ${value.toLocaleString("en")}`);
    const options = live.choices.map(({ name }) => {
      const field = fields.get(name);
      return `${field.parentNode.querySelector("span").textContent.toLowerCase()} ${field.selectedOptions[0].textContent}`;
    });
    document.querySelector("#findings .lead").textContent = `On ${result.own.title}${result.own.changed ? ", changed" : ""}; ${[...options, ...sizes].join("; ")}.`;
    document.getElementById("commands").textContent = commands(result).join("\n");
    complain(result.problems);
  }

  function complain(problems) {
    status.textContent = problems.join("; ");
    status.classList.toggle("wrong", problems.length > 0);
  }

  // Sliders and placeholders follow the fields.
  function follow(result) {
    for (const when of form.querySelectorAll("[data-when]")) {
      const [name, value] = when.dataset.when.split("=");
      when.hidden = choiceOf(name) !== value;
    }
    for (const slider of form.querySelectorAll("[data-slider]")) {
      const { stops } = controls.get(slider.dataset.slider);
      const shown = Number(fields.get(slider.dataset.slider).value || fields.get(slider.dataset.slider).placeholder);
      const near = stops.reduce((best, stop, i) => (Math.abs(Math.log(stop / shown)) < Math.abs(Math.log(stops[best] / shown)) ? i : best), 0);
      if (document.activeElement !== slider || stops[slider.value] !== shown) slider.value = near;
      slider.setAttribute("aria-valuetext", Number.isFinite(shown) ? shown.toLocaleString("en") : "");
    }
    form.querySelector(".share").href = address();
    if (!result) return;
    const base = live.devices.find((one) => one.name === choiceOf("device"));
    const stated = { ...base, peak: fastest(base, result.dtype)?.[0], fp32: fastest(base, "fp32")?.[0] };
    for (const { name, scale } of live.figures) {
      fields.get(`set-${name}`).placeholder = stated[name] ? String(Number((stated[name] / scale).toPrecision(6))) : "none";
    }
    for (const [name, control] of controls) {
      if (control.group !== "more") continue;
      const values = result.layers.map((layer, i) => result.now[i] && layer.sizes.includes(name) && result.now[i][name]).filter(Boolean);
      fields.get(name).placeholder = [...new Set(values)].join(", ");
    }
  }

  // Rounds do not overlap: what changed meanwhile is the next one.
  let busy = false;
  let again = false;

  async function update() {
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    do {
      again = false;
      let found = { problems: [] };
      try {
        follow(null);
        const result = await explore();
        follow(result);
        await show(result);
        found = answer(result);
      } catch (error) {
        complain([error.message]);
        found.problems = [error.message];
      }
      answerField.value = JSON.stringify(found);
    } while (again);
    busy = false;
    dispatchEvent(new CustomEvent("explored"));
  }

  form.addEventListener("input", (event) => {
    const slider = event.target.dataset.slider;
    if (slider) fields.get(slider).value = controls.get(slider).stops[event.target.value];
    history.replaceState(null, "", address());
    update();
  });
  form.addEventListener("reset", () => {
    history.replaceState(null, "", "#");
    readAddress();
    update();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", () => {
    readAddress();
    update();
  });
  // One sentence is read out when a slider moves, not four.
  for (const name of Object.keys(figures).filter((name) => name !== "time")) {
    document.querySelector(`[data-figure="${name}"] .finding`).removeAttribute("aria-live");
  }
  readAddress();
  update();
})();
