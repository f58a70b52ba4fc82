// The explorer: the reader sets, a round computes, the page shows. Its other parts are explorer_*.js.
((page) => {
  "use strict";
  const { live } = page.store;
  const { form, controls, fields, readAddress, address, wordsOf, heed, unknown } = page.state;
  const { nameOf } = page.device;
  const { rows } = page;
  const status = form.querySelector(".status");
  const figures = Object.fromEntries(page.store.figures.map((figure) => [figure.name, figure]));
  const tables = Object.fromEntries(page.store.tables.map((table) => [table.name, table]));
  const specs = new Map(page.store.figures.map((figure) => [figure.name, JSON.stringify(figure.spec)]));

  // -- what the reader sees ------------------------------------------------------------------------

  async function show(result) {
    const said = page.findings.findings(result);
    nameAxes(result.along);
    for (const name of Object.keys(figures)) page.place(figures[name], rows[name](result), said[name]);
    page.place(tables.now, rows.numbers(result));
    page.place(tables.crossovers, rows.crossovers(result));
    page.place(tables.curve, rows.curve(result));
    say(result, Object.values(said));
    await page.show();
  }

  let named = null;

  // The charts that run along a size are drawn anew where it is another.
  function nameAxes(along) {
    if (named === along) return;
    named = along;
    for (const name of ["time", "roofline"]) {
      figures[name].spec = JSON.parse(specs.get(name).replaceAll(live.along, controls.get(along).words));
      page.forget(figures[name]);
    }
  }

  function say(result, said) {
    const lines = [...new Set([...unknown(), ...said, ...result.problems])];
    const items = lines.map((text) => Object.assign(document.createElement("li"), { textContent: `${text}.` }));
    document.querySelector("#findings ul").replaceChildren(...items);
    const options = live.choices.map(({ name }) => {
      const field = fields.get(name);
      const words = wordsOf(field).toLowerCase();
      return `${words} ${field.selectedOptions[0].textContent}`;
    });
    const sizes = Object.entries(result.given).map(([name, value]) => `${name} = ${value.toLocaleString("en")}`);
    const device = `${result.own.title}${result.own.changed ? ", changed" : ""}`;
    document.querySelector("#findings .lead").textContent = `On ${device}; ${[...options, ...sizes].join("; ")}.`;
    document.getElementById("commands").textContent = page.commands.commands(result).join("\n");
    complain(result.problems);
  }

  function complain(problems) {
    const lines = [...unknown(), ...problems];
    status.textContent = lines.join("; ");
    status.classList.toggle("wrong", lines.length > 0);
  }

  // What is on the page stays, for the reader who is still typing, and is marked as of another setting.
  function stale(problem) {
    complain([problem]);
    document.documentElement.dataset.stale = "";
    document.querySelector("#findings .lead").textContent =
      `Not computed: ${problem}. The numbers, charts and commands shown belong to earlier settings.`;
  }

  // The numbers for whoever reads the page by program.
  function answer(result) {
    const layers = rows.numbers(result).map((row) => [row.label, { ...row, bound: row.limit }]);
    const crossing = result.crossing.map(({ i, j, sizes, orders }) => ({
      first: result.layers[i].name, second: result.layers[j].name, sizes, orders,
    }));
    return {
      device: nameOf(result.own), along: result.along, layers: Object.fromEntries(layers), crossing,
      problems: result.problems, commands: page.commands.commands(result),
    };
  }

  // -- rounds do not overlap: what changed meanwhile is the next one --------------------------------

  let busy = false;
  let again = false;

  async function update() {
    again = busy;
    if (busy) return;
    busy = true;
    do {
      again = false;
      document.getElementById("answer").value = JSON.stringify(await round());
    } while (again);
    busy = false;
    dispatchEvent(new CustomEvent("explored"));
  }

  async function round() {
    try {
      page.form.follow();
      const result = await page.round.explore();
      page.form.hint(result);
      page.form.follow();
      await show(result);
      delete document.documentElement.dataset.stale;
      return answer(result);
    } catch (error) {
      stale(error.message);
      return { problems: [error.message] };
    }
  }

  // -- what the reader does --------------------------------------------------------------------------

  form.addEventListener("input", (event) => {
    const slider = event.target.dataset.slider;
    if (slider) fields.get(slider).value = controls.get(slider).stops[event.target.value];
    heed();
    history.replaceState(null, "", address());
    update();
  });
  form.addEventListener("reset", (event) => {
    event.preventDefault(); // it would come after the round, and put sliders at their ends
    history.replaceState(null, "", "#");
    readAddress();
    update();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", () => {
    readAddress();
    update();
  });
  readAddress();
  update();
})(window.costmodelPage);
