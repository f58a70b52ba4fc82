// The layers' programs: Vega expressions, run by a Vega view without a picture, and so without eval.
((page) => {
  "use strict";
  const { live } = page.store;
  const { choiceOf } = page.state;
  const { chosen, signalsOf } = page.device;

  let running = { key: null, view: null, layers: [] };

  // What a layer is with the options chosen; on a device that cannot run that, why.
  function variantOf(layer) {
    const variant = layer.variants[layer.takes.map(choiceOf).join("|")];
    const refused = variant.refused_on?.[chosen().name];
    return refused ? { refused } : variant;
  }

  // A program's formulas in order: the sizes that nobody set, then its rules, then its steps.
  function formulas(layer, variant, given) {
    const own = layer.sizes.filter((name) => !(name in given));
    const sizes = [
      ...own.filter((name) => layer.required.includes(name)).map((name) => [name, live.tied[name]]),
      ...own.filter((name) => !layer.required.includes(name)).map((name) => [name, layer.defaults[name]]),
    ];
    const rules = variant.rules.map(([condition], i) => [`refused${i}`, condition]);
    const steps = [...sizes, ...rules, ...variant.steps.map((i) => live.steps[i])];
    return steps.map(([as, expr]) => ({ type: "formula", as, expr }));
  }

  // Makes the view for the options chosen and the sizes given; the one there stays where it fits.
  async function load(given) {
    const layers = live.layers.map((layer) => ({ ...layer, variant: variantOf(layer) }));
    const set = layers.map((layer) => [layer.takes.map(choiceOf), layer.variant.refused]);
    const key = JSON.stringify([set, Object.keys(given)]);
    if (running.key === key) return running;
    const programs = layers.filter((layer) => !layer.variant.refused);
    programs.forEach((layer, i) => (layer.data = `layer${i}`));
    const names = Object.keys(signalsOf(live.devices[0], programs.map((layer) => layer.variant)));
    const transformed = programs.map((layer) => ({
      name: layer.data,
      source: "points",
      transform: formulas(layer, layer.variant, given),
    }));
    const spec = {
      signals: names.map((name) => ({ name, value: 1 })),
      data: [{ name: "points", values: [] }, ...transformed],
    };
    const options = { ast: true, mode: "vega", renderer: "none", actions: false };
    running.view?.finalize();
    const { view } = await vegaEmbed(document.createElement("div"), spec, options);
    running = { key, view, layers };
    return running;
  }

  // Runs every program on rows of sizes; returns, for each layer and row, what it computed, or null.
  async function run(rows, signals) {
    const { view, layers } = running;
    for (const [name, value] of Object.entries(signals)) view.signal(name, value);
    await view.data("points", rows.map((row, index) => ({ ...row, index }))).runAsync();
    return layers.map((layer) => {
      const found = new Array(rows.length).fill(null);
      if (layer.data) for (const tuple of view.data(layer.data)) found[tuple.index] = tuple;
      return found;
    });
  }

  // The same with null where a layer refuses the sizes, or the device has no rate for it.
  async function compute(rows, signals) {
    const computed = await run(rows, signals);
    return computed.map((tuples, i) => tuples.map((tuple) => sound(running.layers[i], tuple)));
  }

  function sound(layer, tuple) {
    return tuple && Number.isFinite(tuple.seconds) && !complaint(layer, tuple) ? tuple : null;
  }

  // Why a layer refuses its sizes; null: it does not.
  function complaint(layer, tuple) {
    const broken = layer.sizes.find((name) => !Number.isInteger(tuple[name]) || tuple[name] < 1);
    if (broken) return `${layer.name}: ${broken} would be ${Number(Number(tuple[broken]).toPrecision(6))}, which is not a whole number`;
    const rule = layer.variant.rules.findIndex((_, i) => tuple[`refused${i}`]);
    return rule < 0 ? null : layer.variant.rules[rule][1];
  }

  page.programs = { load, run, compute, sound, complaint };
})(window.costmodelPage);
