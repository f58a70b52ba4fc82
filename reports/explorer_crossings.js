// Where one layer overtakes another along a size: found as costmodel.crossover finds it.
((page) => {
  "use strict";
  const { compute } = page.programs;

  // -1, 0 or 1: the first takes less time, as much, more; null: one of them takes none.
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

  // For each pair that has a time at every point: the sizes where its order changes, and the orders.
  async function crossings(points, computed, rowAt, signals) {
    const found = pairs(computed.length).map(([i, j]) => bracketed(i, j, points, computed)).filter(Boolean);
    await narrow(found.flatMap((pair) => pair.changes), rowAt, signals);
    return found.map(settle);
  }

  function bracketed(i, j, points, computed) {
    const signs = points.map((_, k) => orderOf(computed[i][k], computed[j][k]));
    if (signs.includes(null)) return null;
    const pair = { i, j, changes: [], sequence: [signs[0]] };
    for (let k = 0; k + 1 < points.length; k++) {
      if (signs[k] === signs[k + 1]) continue;
      pair.changes.push({ i, j, low: points[k], high: points[k + 1], before: signs[k] });
      pair.sequence.push(signs[k + 1]);
    }
    return pair;
  }

  // Halves all brackets at once until each holds one step.
  async function narrow(brackets, rowAt, signals) {
    let left = brackets.filter((bracket) => bracket.high - bracket.low > 1);
    while (left.length) {
      const middles = left.map(({ low, high }) => Math.floor((low + high) / 2));
      const results = await compute(middles.map(rowAt), signals);
      left.forEach((bracket, k) => {
        const order = orderOf(results[bracket.i][k], results[bracket.j][k]);
        bracket[order === bracket.before ? "low" : "high"] = middles[k];
      });
      left = left.filter((bracket) => bracket.high - bracket.low > 1);
    }
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

  page.crossings = { grid, crossings };
})(window.costmodelPage);
