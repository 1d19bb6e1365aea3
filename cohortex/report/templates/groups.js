// Distributions of a stage's measures, split by a column of the cohort's table: boxes and dots, drawn anew for every choice.
const compareGroups = (data, unpack, columnsOf) => {
  const one = (selector) => document.querySelector(selector);
  const charts = one("#groups-charts"), shown = one("#groups-shown");
  const controls = { stage: one("#groups-stage"), modality: one("#groups-modality"), by: one("#groups-by"), harmonised: one("#groups-harmonised") };
  const LEFT = 150, WIDE = 460, RIGHT = 14, ROW = 34, DOTS = 60, FEWEST = 3, MODALITY = 3;
  const say = (text) => { shown.textContent = text; };
  const fill = (select, values) => values.forEach((value) => {
    const option = document.createElement("option");
    option.value = option.textContent = value;
    select.append(option);
  });
  const stages = Object.keys(data.stages);
  const nothing = !stages.length ? "No measure to compare." : !data.groups.names.length ? "No column parts the images into groups of several." : "";
  if (nothing) {
    one("#groups .controls").hidden = true;
    one("#groups-about").textContent = nothing;
    return;
  }

  const short = (x) => x === 0 ? "0" : Math.abs(x) >= 1e5 || Math.abs(x) < 1e-3 ? x.toExponential(2) : String(Number(x.toPrecision(4)));
  const svg = (name, about, text) => {
    const element = document.createElementNS(one(".definitions").namespaceURI, name);
    Object.entries(about).forEach(([key, value]) => element.setAttribute(key, value));
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const quantile = (sorted, share) => {
    const at = share * (sorted.length - 1), low = Math.floor(at), high = Math.ceil(at);
    return sorted[low] + (sorted[high] - sorted[low]) * (at - low);
  };
  const ticks = (low, high) => {
    const raw = (high - low) / 5, power = 10 ** Math.floor(Math.log10(raw));
    const step = power * ([1, 2, 5, 10].find((factor) => raw <= power * factor) || 10);
    const found = [];
    for (let at = Math.ceil(low / step); at * step <= high + step * 1e-9; at += 1) found.push(Number((at * step).toPrecision(12)));
    return found;
  };
  const words = (row) => {
    const of = row.values, few = of.length < FEWEST;
    const box = few ? "" : `, quartiles ${short(quantile(of, 0.25))} to ${short(quantile(of, 0.75))}`;
    return `${row.name}: ${of.length} images, median ${short(quantile(of, 0.5))}${box}`;
  };
  const clipped = (text) => text.length > 20 ? text.slice(0, 19) + "…" : text;

  // One chart: a row for every group, or two where harmonised values stand beside.
  const drawn = (title, rows) => {
    const all = rows.flatMap((row) => [row.values[0], row.values[row.values.length - 1]]);
    let low = Math.min(...all), high = Math.max(...all);
    const margin = (high - low) * 0.04 || Math.abs(low) * 0.05 || 0.5;
    low -= margin; high += margin;
    const x = (value) => LEFT + (value - low) / (high - low) * (WIDE - LEFT - RIGHT);
    const bottom = rows.length * ROW + 6;
    const chart = svg("svg", { class: "chart", viewBox: `0 0 ${WIDE} ${bottom + 20}`, role: "img" });
    chart.append(svg("title", {}, `${title}. ${rows.map(words).join("; ")}`));
    ticks(low, high).forEach((tick) => {
      chart.append(svg("line", { class: "grid", x1: x(tick), x2: x(tick), y1: 4, y2: bottom }));
      chart.append(svg("text", { class: "tick", x: x(tick), y: bottom + 14 }, short(tick)));
    });
    rows.forEach((row, index) => {
      const middle = index * ROW + ROW / 2 + 4, of = row.values;
      const label = svg("text", { class: "row", x: LEFT - 8, y: middle + 4 }, clipped(row.name) + " ");
      label.append(svg("tspan", { class: "count" }, `n=${of.length}`));
      chart.append(label);
      if (of.length >= FEWEST) {
        const [a, b, c, d, e] = [0.05, 0.25, 0.5, 0.75, 0.95].map((share) => x(quantile(of, share)));
        chart.append(svg("line", { class: "whisker", x1: a, x2: e, y1: middle, y2: middle }));
        chart.append(svg("rect", { class: row.harmonised ? "box made" : "box", x: b, y: middle - 9, width: Math.max(1, d - b), height: 18, rx: 2 }));
        chart.append(svg("line", { class: "median", x1: c, x2: c, y1: middle - 9, y2: middle + 9 }));
      }
      if (of.length <= DOTS) {
        of.forEach((value, place) => {
          chart.append(svg("circle", { class: "dot", cx: x(value), cy: middle + ((place * 0.618034) % 1 - 0.5) * 13, r: 2.4 }));
        });
      }
    });
    const figure = document.createElement("figure"), caption = document.createElement("figcaption");
    figure.className = "chart-figure";
    caption.textContent = title;
    figure.append(caption, chart);
    return figure;
  };

  let fixed, groups, turn = 0;
  const out = new Set(data.left_out);
  const draw = async () => {
    const mine = turn += 1;
    charts.setAttribute("aria-busy", "true");
    const stage = controls.stage.value, modality = controls.modality.value, by = controls.by.value;
    const columns = await columnsOf(stage), made = data.harmonised[stage];
    one("#groups-harmonised-label").hidden = !made;
    const beside = made && controls.harmonised.checked ? await unpack(made.packed) : [];
    if (mine !== turn) return;
    const cells = groups[data.groups.names.indexOf(by)];
    const names = [...new Set(cells)].filter(Boolean).sort(new Intl.Collator("en", { numeric: true }).compare);
    const members = names.map((name) => cells.flatMap((cell, row) => cell === name && fixed[MODALITY][row] === modality && !out.has(row) ? [row] : []));
    const numbers = (column, rows) => rows.map((row) => column[row]).filter((value) => typeof value === "number").sort((a, b) => a - b);
    const figures = [];
    columns.forEach((column, index) => {
      const other = made && controls.harmonised.checked ? beside[made.columns.indexOf(index)] : undefined;
      const rows = names.flatMap((name, place) => [
        { name, values: numbers(column, members[place]), harmonised: false },
        ...(other ? [{ name: "harmonised", values: numbers(other, members[place]), harmonised: true }] : []),
      ]).filter((row) => row.values.length);
      const different = new Set(rows.flatMap((row) => [row.values[0], row.values[row.values.length - 1]]));
      if (rows.length > 1 && different.size > 1 && rows.some((row) => row.values.length >= FEWEST)) figures.push(drawn(data.stages[stage][index], rows));
    });
    charts.replaceChildren(...figures);
    const images = members.reduce((sum, rows) => sum + rows.length, 0);
    say(figures.length ? `${figures.length} measure${figures.length > 1 ? "s" : ""} of ${stage}, ${images} ${modality} images by ${by}${beside.length ? ", harmonised ones below the measured" : ""}` : `No measure of ${modality} in ${stage} varies over groups of ${by}.`);
    charts.setAttribute("aria-busy", "false");
  };

  const begin = async () => {
    fixed = await unpack(data.packed[""]);
    groups = await unpack(data.groups.packed);
    const counts = new Map();
    fixed[MODALITY].forEach((name) => counts.set(name, (counts.get(name) || 0) + 1));
    fill(controls.stage, stages);
    fill(controls.modality, [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a)));
    fill(controls.by, data.groups.names);
    const first = Object.keys(data.harmonised)[0] || ["denoise", "preprocess", "regseg"].find((name) => stages.includes(name));
    if (first) controls.stage.value = first;
    Object.values(controls).forEach((control) => control.addEventListener("change", draw));
    await draw();
  };
  begin().catch(() => say("This browser cannot unpack the figures; they are in manifest.tsv."));
};
