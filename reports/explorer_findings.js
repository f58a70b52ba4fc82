// What a round's numbers say, in words.
((page) => {
  "use strict";
  const { live } = page.store;
  const { controls } = page.state;
  const { ofNow, now, crossed, memory } = page.rows;
  const { limit, seconds, si } = page.writers;

  const listed = (items) => (items.length > 1 ? `${items.slice(0, -1).join(", ")} and ${items.at(-1)}` : items.join(""));
  const percent = (share) => `${share >= 0.1 ? Math.round(100 * share) : Number((100 * share).toPrecision(2))} %`;
  const ratio = (value) => `${value < 10 ? Number(value.toPrecision(value < 1.1 ? 3 : 2)) : Math.round(value).toLocaleString("en")} times`;

  const counted = (value, name) => `${value.toLocaleString("en")} ${name}${value === 1 ? "" : "s"}`;

  function sized(result, value) {
    const words = controls.get(result.along).words;
    return words.includes("[tokens]") ? counted(value, "token") : `${result.along} = ${value.toLocaleString("en")}`;
  }

  // A sentence for each chart; where nothing can be computed, why.
  function findings(result) {
    const said = { time, waiting, roofline, memory: memoryHeld };
    const problems = listed(result.problems);
    const some = result.now.some(Boolean);
    return Object.fromEntries(Object.entries(said).map(([name, say]) => [name, some ? say(result) : problems]));
  }

  function roofline(result) {
    const said = now(result)
      .filter((row) => row.rate > 0)
      .sort((a, b) => b.share - a.share)
      .map((row) => `${row.label} ${percent(row.share)} (limited by ${limit(row.limit)})`);
    return said.length ? `Share of peak FLOP/s: ${listed(said)}` : "No matrix products, so there is nothing to draw under the roof";
  }

  function time(result) {
    const all = now(result).sort((a, b) => a.seconds - b.seconds);
    // What devices exchange is nothing where there is one.
    const [idle, order] = [all.filter((row) => row.seconds === 0), all.filter((row) => row.seconds > 0)];
    const nothing = idle.length ? `${listed(idle.map((row) => row.label))} ${idle.length > 1 ? "have" : "has"} nothing to do` : "";
    if (!order.length) return `At ${sized(result, result.at)}, ${nothing}`;
    const [best, worst] = [order[0], order.at(-1)];
    const others = order.length > 4 ? [worst] : order.slice(1);
    const times = others.map((row) => `${row.label} ${seconds(row.seconds)}`);
    let text = `At ${sized(result, result.at)}, ${listed([`${best.label} takes ${seconds(best.seconds)}`, ...times])}`;
    if (nothing) text += ` (${nothing})`;
    if (worst.seconds > 1.005 * best.seconds) text += `, ${ratio(worst.seconds / best.seconds)} as long${others.length > 1 ? ` as ${best.label}` : ""}`;
    if (order.length < 2) return text;
    return `${text}; the fastest layer ${changing(result)}`;
  }

  // Where the order turns often (tiles, waves) it is said once: a list of all turns is read by nobody.
  function changing(result) {
    const sizes = [...new Set(crossed(result).map((row) => row.at))].sort((a, b) => a - b);
    if (!sizes.length) return `is ${stays(result) ? "" : "not "}the same along the whole range`;
    const [first, last] = [sizes[0], sizes.at(-1)].map((size) => sized(result, size));
    if (sizes.length > live.most_crossings) return `changes ${sizes.length} times between ${first} and ${last}`;
    return `changes at ${listed(sizes.map((size) => sized(result, size)))}`;
  }

  // Two of which one refuses some sizes have no crossovers: whether one is the fastest at all sizes is seen point by point.
  function stays({ points, curves }) {
    const best = points.map((_, k) => Math.min(...curves.map((tuples) => tuples[k]?.seconds || Infinity)));
    return curves.some((tuples) => tuples.every((tuple, k) => best[k] === Infinity || tuple?.seconds <= best[k] * 1.0001));
  }

  function waiting(result) {
    const said = ofNow(result, ({ name }, { seconds: time, waiting_s, steps }) =>
      time > 0 ? [{ name, wait: waiting_s, factor: (time + waiting_s) / time, steps }] : [],
    );
    if (!said.length) return "Nothing to compute, so nothing waits";
    const { name, wait, factor, steps } = said.reduce((most, one) => (one.factor > most.factor ? one : most));
    if (factor < 1.05) return `Waiting would add little: at most ${percent(factor - 1)} (${name})`;
    const chain = steps ? `its ${counted(steps, "dependent step")} and its launches` : "its launches";
    return `Waiting affects ${name} most: ${chain} would add ${seconds(wait)}, for a total of ${ratio(factor)} the roofline's time`;
  }

  function memoryHeld(result) {
    const rows = memory(result);
    const capacity = si(result.own.hbm_capacity, "B");
    const out = rows.filter((row) => row.footprint_bytes > row.capacity_bytes);
    if (out.length) {
      const most = out.map((row) => `${row.label} (${si(row.footprint_bytes, "B")})`);
      return `Memory of ${capacity} is too small for ${listed(most)}`;
    }
    const most = rows.reduce((a, b) => (b.footprint_bytes > a.footprint_bytes ? b : a));
    const [who, also] = rows.length > 1 ? ["every layer", `${most.label} needs most, `] : [most.label, ""];
    return `Memory of ${capacity} is enough for ${who}; ${also}${si(most.footprint_bytes, "B")}`;
  }

  page.findings = { findings };
})(window.costmodelPage);
