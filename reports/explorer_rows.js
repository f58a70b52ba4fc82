// A round's numbers as rows: of the charts, and of the tables.
((page) => {
  "use strict";
  const { live } = page.store;
  const { controls, choiceOf } = page.state;
  const { rateOf, nameOf } = page.device;
  const { si } = page.writers;

  // Products are the vector units' where a device has no matrix rate of their format.
  function limitOf(result, layer, tuple) {
    const limit = layer.variant.limits[tuple.bound];
    const [engine, dtype] = limit.split(":");
    return engine === "matrix" && !result.own.rates.matrix?.[dtype] ? `vector:${dtype}` : limit;
  }

  // Calls with each layer, its numbers at the setting, and its place, where it has numbers.
  function ofNow(result, rows) {
    return result.layers.flatMap((layer, i) => (result.now[i] ? rows(layer, result.now[i], i) : []));
  }

  // -- the roofline, and time along a size: rows are told apart by their kind -----------------------

  function described(result, layer, tuple, kind, at) {
    const rate = tuple.matrix_flops / tuple.seconds;
    const peak = rateOf(result.own, "matrix", result.dtype);
    return {
      kind, label: layer.name, at, limit: limitOf(result, layer, tuple),
      seconds: tuple.seconds, lower_s: tuple.lower_s,
      intensity: tuple.matrix_flops / tuple.hbm_bytes, rate, share: rate / peak,
      footprint_bytes: tuple.footprint_bytes, note: null,
    };
  }

  const now = (result) => ofNow(result, (layer, tuple) => [described(result, layer, tuple, "now", result.at)]);

  // Four points an octave are drawn; crossovers are looked for at more.
  function curve(result) {
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

  function roof(result, points) {
    const peak = rateOf(result.own, "matrix", result.dtype);
    const bandwidth = result.own.hbm;
    if (!peak || !points.length) return [];
    const ridge = peak / bandwidth;
    const decade = (value, round) => 10 ** round(Math.log10(value));
    const low = decade(Math.min(ridge, ...points.map((p) => p.intensity)), Math.floor);
    const high = decade(Math.max(ridge, ...points.map((p) => p.intensity)), Math.ceil);
    const at = Math.round(ridge).toLocaleString("en");
    const note = `${si(peak, "FLOP/s")} · ${si(bandwidth, "B/s")} · ridge ${at} FLOP/B`;
    const empty = Object.fromEntries(Object.keys(points[0]).map((key) => [key, null]));
    return [low, ridge, high].map((x, i) => ({
      ...empty, kind: "roof", intensity: x, rate: Math.min(peak, bandwidth * x), note: i === 1 ? note : null,
    }));
  }

  // The roofline's: a layer without matrix products, or without traffic, has no place there.
  function roofline(result) {
    const placed = [...curve(result), ...now(result)].filter((row) => row.rate > 0 && Number.isFinite(row.intensity));
    return [...placed, ...roof(result, placed)];
  }

  // Rings where a curve that is the fastest just before or after crosses another, with their numbers where they are few.
  function crossed(result) {
    const low = controls.get(result.along).stops[0];
    const rings = result.crossing.flatMap(({ i, j, sizes }) =>
      sizes.filter((size) => size >= low).flatMap((size) => {
        const k = result.points.findIndex((n) => n * result.unit >= size);
        const [first, second] = [result.curves[i][k], result.curves[j][k]];
        const best = Math.min(...result.curves.map((tuples) => tuples[k]?.seconds || Infinity));
        if (Math.min(first.seconds, second.seconds) > best * 1.0001) return [];
        return [described(result, result.layers[j], second, "cross", size)];
      }),
    );
    const few = new Set(rings.map((row) => row.at)).size <= live.most_crossings;
    return few ? numbered(rings, result.along) : rings;
  }

  // A ring close to one that has its number has none: the two would lie one over the other.
  function numbered(rings, along) {
    const { stops } = controls.get(along);
    const least = (stops.at(-1) / stops[0]) ** 0.1;
    let last = 0;
    return rings.sort((a, b) => a.at - b.at).map((row) => {
      if (row.at < last * least) return row;
      last = row.at;
      return { ...row, note: row.at.toLocaleString("en") };
    });
  }

  // A device alone exchanges nothing: what takes no time has no place on an axis of octaves.
  const time = (result) => [...curve(result), ...now(result), ...crossed(result)].filter((row) => row.seconds > 0);

  // -- bars ----------------------------------------------------------------------------------------

  function waiting(result) {
    return ofNow(result, (layer, t) => {
      const parts = [t.seconds, t.steps * result.own.step, t.launches * result.own.launch];
      return live.parts.map((part, order) => ({ label: layer.name, part, order, seconds: parts[order] }));
    });
  }

  function memory(result) {
    const capacity_bytes = result.own.hbm_capacity;
    return ofNow(result, (layer, { footprint_bytes }) => {
      const lack = footprint_bytes <= capacity_bytes ? "" : ", does not fit";
      const note = `${layer.name}: ${si(footprint_bytes, "B")}${lack}`;
      return [{ label: layer.name, footprint_bytes, capacity_bytes, note }];
    });
  }

  // -- tables ----------------------------------------------------------------------------------------

  const NUMBERS = [
    "seconds", "lower_s", "serial_s", "waiting_s", "matrix_flops", "vector_flops", "special_flops", "hbm_bytes",
    "l2_bytes", "compulsory_bytes", "depth", "pram_depth", "path", "launches", "footprint_bytes", "kept_bytes",
    "parameters",
  ];

  function numbers(result) {
    const setting = { device: nameOf(result.own), dtype: choiceOf("dtype") ?? "", rung: "bound" };
    return ofNow(result, (layer, tuple) => {
      const taken = (names) => Object.fromEntries(names.map((name) => [name, tuple[name]]));
      const limit = limitOf(result, layer, tuple);
      return [{ label: layer.name, ...setting, ...taken(NUMBERS), limit, ...taken(layer.sizes) }];
    });
  }

  function crossovers(result) {
    return result.crossing.flatMap(({ i, j, sizes, orders }) => {
      const [first, second] = [result.layers[i].name, result.layers[j].name];
      const cheaper = (order) => (order < 0 ? first : order > 0 ? second : "neither");
      return [1, ...sizes].map((size, k) => ({ first, second, along: result.along, size, cheaper: cheaper(orders[k]) }));
    });
  }

  page.rows = { ofNow, now, curve, crossed, roofline, time, waiting, memory, numbers, crossovers };
})(window.costmodelPage);
