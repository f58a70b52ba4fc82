// The explorer's state: what the form's fields say, kept in the address so that a view can be shared.
((page) => {
  "use strict";
  const { live } = page.store;
  const form = document.querySelector(".controls");
  const controls = new Map(live.controls.map((control) => [control.name, control]));
  const fields = new Map([...form.querySelectorAll("[data-state]")].map((field) => [field.dataset.state, field]));

  // Curves run along sizes that every layer follows; heads cut the width, and would leave gaps.
  function alongSizes() {
    const sizes = live.controls.filter((control) => control.group === "size" && control.name !== "heads");
    const names = sizes.map((control) => control.name);
    return names.includes("seq") ? ["seq", ...names.filter((name) => name !== "seq")] : names;
  }

  fields.get("along").append(
    ...alongSizes().map((name, i) => {
      const option = new Option(controls.get(name).words.replace(/ \[.*/, ""), name);
      option.defaultSelected = i === 0;
      return option;
    }),
  );
  const first = new Map([...fields].map(([name, field]) => [name, field.value]));

  // What the address asks for and the page does not have, in words, until the reader sets something.
  let unknown = [];

  function readAddress() {
    const said = new URLSearchParams(location.hash.slice(1));
    unknown = [];
    for (const [name, field] of fields) {
      field.value = said.get(name) ?? first.get(name);
      if (field.tagName === "SELECT" && field.selectedIndex < 0) fallBack(name, field, said.get(name));
    }
    if (unknown.length) history.replaceState(null, "", address());
    for (const folded of form.querySelectorAll("details")) {
      if ([...folded.querySelectorAll("input[type=number]")].some((field) => field.value)) folded.open = true;
    }
  }

  function fallBack(name, field, asked) {
    field.value = first.get(name);
    const shown = field.selectedOptions[0].textContent;
    unknown.push(`${wordsOf(field)} ${asked} in the address is not on this page; showing ${shown}`);
  }

  const wordsOf = (field) => field.parentNode.querySelector("span").textContent;

  function heed() {
    unknown = [];
  }

  function address() {
    const changed = [...fields].filter(([name, field]) => field.value !== first.get(name));
    return `#${new URLSearchParams(changed.map(([name, field]) => [name, field.value]))}`;
  }

  const choiceOf = (name) => fields.get(name)?.value;

  // A field that holds what is no number says it is empty, and that its input is bad.
  const isEmpty = (field) => field.value === "" && !field.validity.badInput;

  // The sizes that the reader has set: whole numbers, by name.
  function sizesGiven() {
    const given = {};
    for (const [name, control] of controls) {
      const field = fields.get(name);
      if (control.group === "tile" && choiceOf("tile") !== "free") continue;
      if (control.group === "more" && isEmpty(field)) continue;
      const value = Number(field.value);
      if (field.value === "" || !Number.isInteger(value) || value < 1 || value > control.largest) {
        const largest = control.largest.toLocaleString("en");
        throw new Error(`${control.words}: wanted a whole number from 1 to ${largest}`);
      }
      given[name] = value;
    }
    return given;
  }

  // The figures of a device that the reader has changed, within its limits: in SI units, and as they were written.
  function changes(limits) {
    const found = {};
    for (const { name, scale } of live.figures) {
      const field = fields.get(`set-${name}`);
      if (field.disabled || isEmpty(field)) continue;
      const value = Number(field.value) * scale;
      const [least, most] = limits[name];
      if (field.value === "" || !(value >= least * (1 - 1e-12) && value <= most * (1 + 1e-12))) {
        const [low, high] = [least, most].map((limit) => Number((limit / scale).toPrecision(6)).toLocaleString("en"));
        throw new Error(`${wordsOf(field)}: wanted ${low} to ${high}, got ${field.value || "no number"}`);
      }
      found[name] = { value, text: field.value };
    }
    return found;
  }

  page.state = {
    form, controls, fields, readAddress, address, choiceOf, sizesGiven, changes, wordsOf, heed, unknown: () => unknown,
  };
})(window.costmodelPage);
