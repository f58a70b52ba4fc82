// One round of the explorer: from what the reader has set to every number that is shown.
((page) => {
  "use strict";
  const { controls, fields, choiceOf, sizesGiven, changes } = page.state;
  const { chosen, withChanges, signalsOf, lacking } = page.device;
  const { load, run, compute, sound, complaint } = page.programs;
  const { grid, crossings } = page.crossings;

  async function explore() {
    const given = sizesGiven();
    const dtype = choiceOf("dtype") ?? "bf16";
    fields.get("set-fp32").disabled = dtype === "fp32";
    const changed = changes(chosen().limits);
    const own = withChanges(changed, dtype);
    const { key, layers } = await load(given);
    const programs = layers.map((layer) => layer.variant).filter((variant) => !variant.refused);
    const signals = signalsOf(own, programs);
    const tuples = (await run([given], signals)).map((rows) => rows[0]);
    const problems = layers.map((layer, i) => problemOf(layer, own, tuples[i])).filter(Boolean);
    const now = layers.map((layer, i) => sound(layer, tuples[i]));
    const along = choiceOf("along");
    const curves = await curvesAlong(along, given, signals, key);
    const setting = { given, dtype, own, changed, along, at: given[along] };
    return { ...setting, layers, problems: [...new Set(problems)], now, ...curves };
  }

  function problemOf(layer, own, tuple) {
    return layer.variant.refused ?? lacking(own, layer.variant) ?? (tuple && complaint(layer, tuple));
  }

  // Curves stay as they are while the reader moves along them.
  let known = { key: null };

  // Every layer at the points of a grid along a size, in steps of `unit`: heads have to cut the width.
  async function curvesAlong(along, given, signals, programs) {
    const unit = along === "width" && "heads" in given ? given.heads : 1;
    const limit = Math.max(1, Math.floor(controls.get(along).stops.at(-1) / unit));
    const rowAt = (n) => ({ ...given, [along]: n * unit });
    const key = JSON.stringify([programs, along, rowAt(1), signals]);
    if (known.key === key) return known.found;
    const points = grid(limit);
    const curves = await compute(points.map(rowAt), signals);
    const crossing = await crossings(points, curves, rowAt, signals);
    for (const pair of crossing) pair.sizes = pair.sizes.map((n) => n * unit);
    known = { key, found: { unit, points, curves, crossing } };
    return known.found;
  }

  page.round = { explore };
})(window.costmodelPage);
