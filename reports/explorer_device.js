// The device at hand: a datasheet's figures and the reader's own, and the signals that programs read.
((page) => {
  "use strict";
  const { live } = page.store;
  const { choiceOf } = page.state;
  const { si } = page.writers;

  const chosen = () => live.devices.find((one) => one.name === choiceOf("device"));

  // The device chosen with the reader's figures, those of the peak for one number format.
  function withChanges(changed, dtype) {
    const base = chosen();
    const own = { ...structuredClone(base), changed: Object.keys(changed).length > 0 };
    for (const [name, { value }] of Object.entries(changed)) {
      if (name === "peak" || name === "fp32") setRate(own, base, name === "peak" ? dtype : "fp32", value);
      else own[name] = value;
    }
    if (own.changed && own.l2 > own.hbm_capacity) {
      throw new Error(`L2 cache of ${si(own.l2, "B")}: wanted at most the memory's ${si(own.hbm_capacity, "B")}`);
    }
    return own;
  }

  // The engine that is faster at a format has the new rate, and the other no more; highest clocks stay as far above.
  function setRate(own, base, dtype, value) {
    const rate = (engine) => base.rates[engine]?.[dtype]?.[0] ?? 0;
    const faster = rate("vector") > rate("matrix") ? "vector" : "matrix";
    for (const engine of ["matrix", "vector"].filter((one) => one === faster || rate(one) > value)) {
      own.rates[engine] = { ...own.rates[engine], [dtype]: [value, value * base.ratios[engine]] };
    }
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
      sums: own.sums ?? Infinity,
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

  // Why a program cannot run on a device; null: it can.
  function lacking(own, program) {
    const missing = program.rates.find(([engine, dtype]) => engine === "matrix" && !fastest(own, dtype));
    if (!missing) return null;
    const has = new Set([...Object.keys(own.rates.matrix ?? {}), ...Object.keys(own.rates.vector ?? {})]);
    return `${own.title} has no ${missing[1]} rate; it has ${[...has].join(", ")}`;
  }

  const nameOf = (own) => (own.changed ? `${own.name}*` : own.name);

  page.device = { chosen, withChanges, fastest, rateOf, signalsOf, lacking, nameOf };
})(window.costmodelPage);
