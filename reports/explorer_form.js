// The form shows what holds: sliders at their fields' values, fields that are empty with what they stand for.
((page) => {
  "use strict";
  const { live } = page.store;
  const { form, controls, fields, address, choiceOf } = page.state;
  const { chosen, fastest } = page.device;

  // What depends on the fields alone.
  function follow() {
    for (const when of form.querySelectorAll("[data-when]")) {
      const [name, value] = when.dataset.when.split("=");
      when.hidden = choiceOf(name) !== value;
    }
    for (const slider of form.querySelectorAll("[data-slider]")) set(slider);
    form.querySelector(".share").href = address();
  }

  // A slider stands at the stop nearest to its field; the one that is being moved stays in hand.
  function set(slider) {
    const { stops } = controls.get(slider.dataset.slider);
    const field = fields.get(slider.dataset.slider);
    const shown = Number(field.value || field.placeholder);
    const off = (stop) => Math.abs(Math.log(stop / shown));
    const near = stops.reduce((best, stop, i) => (off(stop) < off(stops[best]) ? i : best), 0);
    if (document.activeElement !== slider || stops[slider.value] !== shown) slider.value = near;
    slider.setAttribute("aria-valuetext", Number.isFinite(shown) ? shown.toLocaleString("en") : "");
  }

  // What stands where the reader has set nothing: the datasheet's figures, the sizes' defaults.
  function hint(result) {
    const base = chosen();
    const stated = { ...base, peak: fastest(base, result.dtype)?.[0], fp32: fastest(base, "fp32")?.[0] };
    for (const { name, scale } of live.figures) {
      const value = stated[name];
      fields.get(`set-${name}`).placeholder = value ? String(Number((value / scale).toPrecision(6))) : "none";
    }
    for (const [name, control] of controls) {
      if (control.group !== "more") continue;
      const taken = result.layers.map((layer, i) => result.now[i] && layer.sizes.includes(name) && result.now[i][name]);
      fields.get(name).placeholder = [...new Set(taken.filter(Boolean))].join(", ");
    }
  }

  page.form = { follow, hint };
})(window.costmodelPage);
