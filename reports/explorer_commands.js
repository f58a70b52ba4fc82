// The commands that print the page's numbers.
((page) => {
  "use strict";
  const { live } = page.store;
  const { choiceOf } = page.state;
  const { ofNow } = page.rows;

  const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`);

  function commands(result) {
    const changed = deviceSet(result);
    return ofNow(result, (layer, tuple) => {
      if (!layer.kind) return []; // a whole model, which predict does not take by that name
      const what = quoted(`${layer.kind}[${options(layer, result.given)}]`);
      const sizes = layer.sizes.map((name) => `${name}=${tuple[name]}`);
      const where = `-m ${quoted(result.own.name)} -D ${sizes.join(" ")}${changed}`;
      return [`costmodel predict ${what} ${where} --rung bound`];
    });
  }

  function deviceSet({ changed, dtype }) {
    const figures = Object.entries(changed).map(([name, { text }]) => {
      const { unit } = live.figures.find((figure) => figure.name === name);
      return quoted(`${name === "peak" ? dtype : name}=${text} ${unit}`);
    });
    return figures.length ? ` --device-set ${figures.join(" ")}` : "";
  }

  function options(layer, given) {
    const tile = choiceOf("tile") === "free" ? `tile=${given.tile_rows}x${given.tile_cols}` : "";
    const chosen = layer.takes.map((name) => (name === "tile" ? tile : `${name}=${choiceOf(name)}`));
    return [...chosen, ...layer.options].filter(Boolean).join(",");
  }

  page.commands = { commands };
})(window.costmodelPage);
