(() => {
  const STEP = 100;
  const SIGNS = { ok: "✓", warned: "!", skipped: "–" };
  const LOST = ["failed", "crashed", "quarantined"];
  const RANK = { failed: 0, crashed: 1, quarantined: 2, warned: 3, skipped: 4, ok: 5 };
  const REASON = 5, SITE = 6;
  const one = (selector) => document.querySelector(selector);
  const make = (name, text, className) => {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  };

  const data = JSON.parse(one("#data").textContent);
  one("#data").remove();
  // The table's columns are base64 of gzip of JSON, unpacked when they are looked at: fifty thousand subjects stay a page.
  const unpack = (text) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  };
  const unpacking = {};
  const columnsOf = (stage) => unpacking[stage] || (unpacking[stage] = data.packed[stage] ? unpack(data.packed[stage]) : Promise.resolve([]));
  const collator = new Intl.Collator("en", { numeric: true });
  const busy = (on) => one("#table").setAttribute("aria-busy", String(on));

  const table = async () => {
    busy(true);
    const stages = Object.keys(data.stages);
    const odd = new Map();
    data.odd.forEach(([row, stage, column]) => {
      if (!odd.has(row)) odd.set(row, new Set());
      odd.get(row).add(stage + "|" + column);
    });
    const fixed = await unpack(data.packed[""]);
    // Columns that are empty for every image are left out; the reason stands where it is seen without scrolling.
    const sites = fixed[SITE].some(Boolean), reasons = fixed[REASON].some(Boolean);
    const FIXED = ["Status", "Image", "Subject", "Modality", "Last stage", ...(reasons ? ["Reason"] : []), ...(sites ? ["Site"] : [])];
    const columns = [...fixed.slice(0, REASON), ...(reasons ? [fixed[REASON]] : []), ...(sites ? [fixed[SITE]] : [])];
    const rows = Array.from({ length: data.count }, (_, index) => ({
      index,
      cells: columns.map((column) => column[index]),
      odd: odd.get(index) || new Set(),
      text: fixed.map((column) => column[index]).join(" ").toLowerCase(),
    }));
    const unpacked = {}, pages = new Set(data.pages);
    const controls = { search: one("#search"), status: one("#by-status"), modality: one("#by-modality"), stage: one("#by-stage") };
    const state = { column: 0, down: false, limit: STEP };

    const fill = (select, values, names) => values.forEach((value, index) => {
      const option = make("option", names ? names[index] : value);
      option.value = value;
      select.append(option);
    });
    const present = [...new Set(rows.map((row) => row.cells[0]))].sort((a, b) => RANK[a] - RANK[b]);
    if (present.some((status) => LOST.includes(status))) fill(controls.status, ["lost"], ["all that was set aside"]);
    if (rows.some((row) => row.odd.size)) fill(controls.status, ["odd"], ["all with odd figures"]);
    fill(controls.status, present);
    fill(controls.modality, [...new Set(rows.map((row) => row.cells[3]))].sort());
    fill(controls.stage, stages.length ? stages : [""], stages.length ? stages : ["none"]);
    const oddest = stages.map((stage) => rows.filter((row) => [...row.odd].some((key) => key.startsWith(stage + "|"))).length);
    if (stages.length) controls.stage.value = stages[oddest.indexOf(Math.max(...oddest))];

    const measured = () => data.stages[controls.stage.value] || [];
    const figure = (row, index) => {
      const found = ((unpacked[controls.stage.value] || [])[index] || [])[row.index];
      return found === null ? undefined : found;
    };
    const value = (row, column) => {
      if (column < FIXED.length) return row.cells[column];
      return figure(row, column - FIXED.length);
    };
    const compare = (column, down) => (first, second) => {
      let a = value(first, column), b = value(second, column);
      if (a === b) return first.cells[1] < second.cells[1] ? -1 : 1;
      if (a === undefined || a === "") return 1;
      if (b === undefined || b === "") return -1;
      if (column === 0) { a = RANK[a]; b = RANK[b]; }
      const order = typeof a === "number" && typeof b === "number" ? a - b : collator.compare(String(a), String(b));
      return down ? -order : order;
    };
    const number = (x) => Math.abs(x) >= 1e5 && Math.abs(x) < 1e9 ? (Math.abs(x) >= 1e6 ? Number((x / 1e6).toPrecision(3)) + " M" : Number((x / 1e3).toPrecision(3)) + " k") : x === 0 ? "0" : Math.abs(x) >= 1e5 || Math.abs(x) < 1e-3 ? x.toExponential(2) : String(Number(x.toPrecision(4)));

    const show = () => {
      const words = controls.search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const { status, modality } = { status: controls.status.value, modality: controls.modality.value };
      const found = rows.filter((row) => (!modality || row.cells[3] === modality)
        && (!status || row.cells[0] === status || (status === "lost" && LOST.includes(row.cells[0])) || (status === "odd" && row.odd.size))
        && words.every((word) => row.text.includes(word)));
      found.sort(compare(state.column, state.down));
      const stage = controls.stage.value;
      const heads = [...FIXED, ...measured()];
      const rated = one("#rate-rows").getAttribute("aria-pressed") === "true";
      const line = make("tr");
      heads.forEach((name, column) => {
        const head = make("th", undefined, column >= FIXED.length ? "num" : "");
        head.scope = "col";
        if (column === state.column) head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
        const button = make("button", name);
        button.type = "button";
        button.addEventListener("click", () => {
          state.down = column === state.column ? !state.down : false;
          state.column = column;
          show();
          one("#table thead").querySelectorAll("button")[column].focus({ preventScroll: true });
        });
        head.append(button);
        line.append(head);
      });
      if (rated) {
        const head = make("th", "Rating", "rate-head");
        head.scope = "col";
        line.children[1].after(head);
      }
      one("#table thead").replaceChildren(line);
      const body = document.createDocumentFragment();
      found.slice(0, state.limit).forEach((row) => {
        const tr = make("tr");
        row.cells.forEach((text, column) => {
          const cell = make(column === 1 ? "th" : "td", undefined, FIXED[column] === "Reason" ? "why" : "");
          if (column === 1) cell.scope = "row";
          if (column === 0) {
            const badge = make("span", undefined, "status s-" + text);
            const sign = make("span", SIGNS[text] || "✕", "sign");
            sign.setAttribute("aria-hidden", "true");
            badge.append(sign, text);
            cell.append(badge);
          } else if (FIXED[column] === "Site" && data.simulated.includes(text)) {
            cell.append(make("span", "simulated", "simulated"));
          } else if (column === 1) {
            if (data.thumbs[row.index]) cell.append(thumb(text, ...data.thumbs[row.index]));
            if (pages.has(row.cells[2])) {
              const link = make("a", text);
              link.href = `subjects/sub-${row.cells[2]}.html#image-${text.split("+")[0]}`;
              cell.append(link);
            } else {
              cell.append(text);
            }
          } else {
            cell.textContent = text;
          }
          tr.append(cell);
        });
        if (rated) tr.children[1].after(row.cells[1].includes("+") ? make("td") : rating(row.cells[1]));
        measured().forEach((_, index) => {
          const found = figure(row, index);
          const cell = make("td", typeof found === "number" ? number(found) : found === undefined ? "" : found, "num");
          if (row.odd.has(stage + "|" + index)) {
            cell.classList.add("odd-cell");
            cell.title = "far from the others";
          }
          tr.append(cell);
        });
        body.append(tr);
      });
      one("#table tbody").replaceChildren(body);
      const most = Math.min(state.limit, found.length);
      one("#shown").textContent = most < found.length ? `${most} of ${found.length} found, ${rows.length} in all` : `${found.length} of ${rows.length} images`;
      one("#more").hidden = most >= found.length;
    };
    // The last picture of an image, which the page holds anyway, small, leading to where it is shown.
    const thumb = (name, picture, width, height, place) => {
      const link = make("a", undefined, "thumb"), drawing = document.createElementNS(one(".definitions").namespaceURI, "svg");
      const use = document.createElementNS(one(".definitions").namespaceURI, "use");
      link.href = place;
      link.setAttribute("aria-label", "Pictures of " + name);
      drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
      drawing.setAttribute("aria-hidden", "true");
      use.setAttribute("href", "#" + picture);
      drawing.append(use);
      link.append(drawing);
      return link;
    };
    // The rating of a row: a choice and a note, as on the page of the subject.
    const rating = (image) => {
      const cell = make("td", undefined, "row-rating"), choice = make("select"), note = make("input");
      ["", "accept", "reject", "unsure"].forEach((word) => {
        const option = make("option", word || "–");
        option.value = word;
        choice.append(option);
      });
      const found = ratings.get(image) || { rating: "", note: "" };
      choice.value = found.rating;
      choice.setAttribute("aria-label", "Rating of " + image);
      note.value = found.note;
      note.placeholder = "note";
      note.maxLength = 500;
      note.setAttribute("aria-label", "Note on " + image);
      const set = () => ratings.set(image, choice.value, note.value);
      choice.addEventListener("change", set);
      note.addEventListener("change", () => { if (choice.value) set(); });
      cell.append(choice, note);
      return cell;
    };
    one("#rate-rows").addEventListener("click", () => {
      const on = one("#rate-rows").getAttribute("aria-pressed") !== "true";
      one("#rate-rows").setAttribute("aria-pressed", String(on));
      one(".rater").hidden = !on;
      show();
    });
    // What another page or a table says is shown, but no field is taken from under the cursor.
    ratings.onChange(() => { if (!one(".row-rating :focus")) show(); });
    const again = () => { state.limit = STEP; show(); };
    controls.search.addEventListener("input", again);
    controls.status.addEventListener("change", again);
    controls.modality.addEventListener("change", again);
    const measure = async () => {
      const stage = controls.stage.value;
      busy(true);
      if (stage && !unpacked[stage]) unpacked[stage] = await columnsOf(stage);
      if (stage !== controls.stage.value) return;
      if (state.column >= FIXED.length) state.column = 0;
      again();
      busy(false);
    };
    controls.stage.addEventListener("change", measure);
    one("#more").addEventListener("click", () => { state.limit += 5 * STEP; show(); });
    await measure();
  };
  table().catch(() => {
    busy(false);
    one("#shown").textContent = "This browser cannot unpack the table; the same rows are in manifest.tsv.";
  });

  compareGroups(data, unpack, columnsOf);

  const pressView = (mosaic) => mosaic.querySelectorAll(".view-button").forEach((button) => {
    button.setAttribute("aria-pressed", String(button.dataset.view === mosaic.dataset.view));
  });
  document.querySelectorAll(".mosaic").forEach((mosaic) => {
    pressView(mosaic);
    mosaic.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button && button.matches(".view-button")) {
        mosaic.dataset.view = button.dataset.view;
        pressView(mosaic);
      } else if (button && button.matches(".contour-button")) {
        button.setAttribute("aria-pressed", String(!mosaic.classList.toggle("bare")));
      } else {
        const pair = event.target.closest(".pair");
        if (pair && (event.target.closest(".view") || button)) enlarge(pair, mosaic);
      }
    });
  });

  const large = one("#large"), stand = one("#large-pictures"), blink = one("#blink");
  let timer = 0;
  const setBlink = (on) => {
    clearInterval(timer);
    blink.setAttribute("aria-pressed", String(on));
    stand.classList.toggle("blinking", on);
    if (on) timer = setInterval(() => stand.classList.toggle("late"), 600);
  };
  const enlarge = (pair, mosaic) => {
    const view = pair.querySelector(".view.only") || pair.querySelector(".view-" + mosaic.dataset.view) || pair.querySelector(".view");
    stand.replaceChildren(...[...view.querySelectorAll(".tile")].map((tile) => tile.cloneNode(true)));
    stand.classList.toggle("bare", mosaic.classList.contains("bare"));
    blink.hidden = stand.children.length < 2;
    one("#large-name").textContent = [...view.querySelectorAll(".tile")].map((tile) => tile.getAttribute("aria-label")).join("  |  ");
    setBlink(false);
    large.showModal();
  };
  blink.addEventListener("click", () => setBlink(blink.getAttribute("aria-pressed") !== "true"));
  large.addEventListener("close", () => setBlink(false));
  large.addEventListener("click", (event) => { if (event.target === large) large.close(); });
  large.addEventListener("keydown", (event) => { if (event.key.toLowerCase() === "b" && !blink.hidden) blink.click(); });

  const more = one(".more-odd");
  if (more) more.addEventListener("click", () => {
    one(".odd").classList.add("all");
    more.parentElement.remove();
  });
  window.addEventListener("beforeprint", () => document.querySelectorAll("details:not([data-print=closed])").forEach((details) => { details.open = true; }));
})();
