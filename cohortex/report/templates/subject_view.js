(() => {
  const place = (id) => document.getElementById(id), view = window.cohortexView;
  const served = location.protocol.startsWith("http");
  const TYPES = { axial: 0, coronal: 1, sagittal: 2, multi: 3, render: 4 };
  // Centre and width in HU.
  const WINDOWS = { brain: [40, 100], "soft tissue": [40, 400], bone: [500, 2000], lung: [-600, 1500] };

  const cannot = (sentence) => {
    place("cannot").textContent = sentence;
    place("cannot").hidden = false;
    place("desk").hidden = true;
  };
  if (!window.niivue || !view) { cannot("The files beside this page (niivue.js and the one with the volumes) are not there; copy the whole folder report."); return; }
  if (!document.createElement("canvas").getContext("webgl2")) {
    cannot("This browser does not draw in three dimensions (WebGL 2 is missing or turned off). The page of the subject shows the same image in slices.");
    return;
  }
  const { Niivue, NVImage } = window.niivue;
  const desk = place("desk"), stage = place("stage");
  desk.hidden = false;

  const nv = new Niivue({
    logLevel: "error", loadingText: "", dragAndDropEnabled: false, isRadiologicalConvention: true, sagittalNoseLeft: true,
    multiplanarShowRender: 1, multiplanarLayout: 2, multiplanarForceRender: true, crosshairWidth: 0.7, crosshairWidthUnit: "mm", multiplanarPadPixels: 8, crosshairColor: [1, 0.83, 0.3, 0.9],
    fontColor: [1, 0.83, 0.3, 1], showLegend: false, showAllOrientationMarkers: true, clipPlaneHotKey: "", cycleClipPlaneHotKey: "", viewModeHotKey: "", dragMode: 0,
    clipPlaneColor: [1, 1, 1, 0], isClipAllVolumes: true,
  });
  let now = null, layers = [], bounds = [], mode = "multi", turn = 0;

  const unpack = async (text) => {
    const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };
  // A byte becomes the value that it stands for, so that whatever is read off is in the image's own units.
  const small = async (image, layer) => {
    const bytes = await unpack(layer.data), labels = layer.kind === "labels";
    const values = labels ? bytes : Float32Array.from(bytes, (byte) => layer.levels[byte]);
    const file = NVImage.createNiftiArray(image.shape, image.spacing, image.affine, labels ? 2 : 16, values);
    return NVImage.new(file.buffer, `${layer.id}.nii`);
  };
  const whole = async (layer) => {
    const answer = await fetch(layer.full);
    if (!answer.ok) throw new Error(String(answer.status));
    const volume = await NVImage.new(await answer.arrayBuffer(), `${layer.id}.nii.gz`);
    // As in the small copy: a label above 255 begins again at 1.
    if (layer.kind === "labels") volume.img = Uint8Array.from(volume.img, (value) => (value > 255 ? 1 + ((value - 1) % 255) : value));
    if (layer.kind === "labels") { volume.hdr.datatypeCode = 2; volume.hdr.numBitsPerVoxel = 8; }
    return volume;
  };
  const paint = (volume, layer) => {
    if (layer.kind === "labels") {
      const table = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: [""] };
      layer.classes.forEach(([value, name, colour]) => {
        const part = (at) => parseInt(colour.slice(at, at + 2), 16);
        table.R.push(part(1)); table.G.push(part(3)); table.B.push(part(5)); table.A.push(255); table.I.push(value); table.labels.push(name);
      });
      volume.setColormapLabel(table);
    } else {
      const [low, high] = layer.window || [volume.robust_min, volume.robust_max];
      volume.colormap = layer.kind === "map" ? "warm" : "gray";
      volume.cal_min = layer.kind === "map" ? 0.05 : low;
      volume.cal_max = high;
    }
  };

  const setWindow = (low, high) => {
    const volume = nv.volumes[0];
    if (!volume || !(high > low)) return;
    volume.cal_min = low;
    volume.cal_max = high;
    place("low").value = String(Number(low.toPrecision(5)));
    place("high").value = String(Number(high.toPrecision(5)));
    nv.updateGLVolume();
  };
  const button = (text, press) => {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = text;
    made.addEventListener("click", press);
    return made;
  };
  const showWindow = (image) => {
    const [low, high] = image.layers[0].window;
    const presets = image.unit === "HU" ? Object.entries(WINDOWS).map(([name, [centre, width]]) => button(name, () => setWindow(centre - width / 2, centre + width / 2))) : [];
    place("presets").replaceChildren(button("as on the pages", () => setWindow(low, high)), ...presets);
    place("unit").textContent = image.unit;
    setWindow(low, high);
  };

  const showLayers = () => {
    const rows = layers.slice(1).map(({ layer, at }) => {
      const row = document.createElement("div"), label = document.createElement("label"), name = document.createElement("span");
      row.className = "layer";
      name.textContent = layer.title;
      const range = document.createElement("input");
      Object.assign(range, { type: "range", min: "0", max: "100", step: "5", className: "layer-range" });
      range.value = String(at ? Math.round(100 * nv.volumes[at].opacity) : 0);
      range.disabled = !at;
      range.dataset.layer = layer.id;
      range.setAttribute("aria-label", `Opacity of ${layer.title}`);
      if (at) range.addEventListener("input", () => nv.setOpacity(at, Number(range.value) / 100));
      label.append(name, range);
      row.append(label);
      if (!at) {
        const why = document.createElement("p");
        why.className = "quiet";
        why.textContent = served ? "It is too large for a browser, or could not be fetched." : "Not in the report; cohortex view shows it.";
        row.append(why);
      }
      if (layer.classes) {
        const list = document.createElement("ul");
        layer.classes.forEach(([, title, colour]) => {
          const line = document.createElement("li"), sign = document.createElementNS("http://www.w3.org/2000/svg", "svg"), disc = document.createElementNS("http://www.w3.org/2000/svg", "circle");
          sign.setAttribute("viewBox", "0 0 12 12");
          sign.setAttribute("aria-hidden", "true");
          Object.entries({ cx: 6, cy: 6, r: 5, fill: colour }).forEach(([key, value]) => disc.setAttribute(key, String(value)));
          sign.append(disc);
          line.append(sign, title);
          list.append(line);
        });
        row.append(list);
      }
      return row;
    });
    const none = document.createElement("p");
    none.className = "quiet";
    none.textContent = "Nothing was.";
    place("layers").replaceChildren(...(rows.length ? rows : [none]));
  };

  const grid = (shape, spacing) => `${shape.join(" × ")} voxels of ${spacing.map((step) => Number(step.toFixed(2))).join(" × ")} mm`;
  const reducedGrid = (image) => image.shape.join() !== image.fullShape.join();
  const tell = (image, full) => {
    const name = `${image.id}${image.simulated ? " (simulated)" : ""}: `;
    const { dims, pixDims } = nv.volumes[0].hdr;
    const seen = grid(dims.slice(1, 4), pixDims.slice(1, 4));
    if (full) { place("what").textContent = `${name}the whole volume, ${seen}.`; return; }
    const why = !served ? "cohortex view shows the whole one" : image.layers[0].full ? "the whole one could not be fetched" : "the whole one is too large for a browser, or no NIfTI file";
    place("what").textContent = reducedGrid(image)
      ? `${name}a reduced copy in 256 grey values, ${seen} (the volume has ${grid(image.fullShape, image.fullSpacing)}); ${why}.`
      : `${name}a copy in 256 grey values, all ${seen}; ${why}.`;
  };

  // Where the centres of the outer voxels are, over all corners of the grid.
  const boundsOf = (image) => [0, 1, 2].map((row) => {
    const { shape, affine } = image;
    let corners = [affine[4 * row + 3]];
    [0, 1, 2].forEach((axis) => { corners = corners.flatMap((value) => [value, value + affine[4 * row + axis] * (shape[axis] - 1)]); });
    return [Math.min(...corners), Math.max(...corners)];
  });

  const open = async (id) => {
    const image = view.images.find((one) => one.id === id) || view.images[0], mine = ++turn;
    document.querySelectorAll(".image-button").forEach((one) => one.setAttribute("aria-pressed", String(one.dataset.image === image.id)));
    stage.setAttribute("aria-busy", "true");
    place("what").textContent = "Reading …";
    let full = served && Boolean(image.layers[0].full);
    const loaded = [];
    for (const layer of image.layers) {
      let volume = null;
      if (full && layer.full) volume = await whole(layer).catch(() => null);
      if (!volume && loaded.length === 0) full = false;
      if (!volume && layer.data) volume = await small(image, layer);
      loaded.push({ layer, volume });
    }
    // Another image was chosen meanwhile.
    if (mine !== turn) return;
    while (nv.volumes.length) nv.removeVolume(nv.volumes[nv.volumes.length - 1]);
    now = image;
    layers = [];
    let labelled = false;
    for (const { layer, volume } of loaded) {
      if (!volume) { layers.push({ layer, at: 0 }); continue; }
      paint(volume, layer);
      volume.opacity = layer.kind === "image" ? 1 : layer.kind === "labels" && !labelled ? 0.4 : 0;
      labelled = labelled || layer.kind === "labels";
      nv.addVolume(volume);
      layers.push({ layer, at: nv.volumes.length - 1 });
    }
    bounds = boundsOf(image);
    document.querySelectorAll(".mm-range").forEach((range) => {
      const [low, high] = bounds[Number(range.dataset.axis)];
      range.min = String(Math.floor(low));
      range.max = String(Math.ceil(high));
    });
    showWindow(image);
    showLayers();
    tell(image, full);
    goTo(bounds.map(([low, high]) => (low + high) / 2));
    stage.dataset.shown = image.id;
    stage.dataset.full = String(full);
    stage.dataset.dims = nv.volumes[0].hdr.dims.slice(1, 4).join("x");
    stage.removeAttribute("aria-busy");
  };

  // The last argument asks for true places: else an oblique grid is taken for a straight one.
  const goTo = (mm) => {
    nv.scene.crosshairPos = nv.mm2frac(mm, 0, true);
    nv.createOnLocationChange();
    nv.drawScene();
  };
  const sides = [["R", "L"], ["A", "P"], ["S", "I"]];
  nv.onLocationChange = (location) => {
    if (!now || !nv.volumes.length) return;
    const mm = Array.from(location.mm).slice(0, 3), lines = [];
    lines.push(["place", mm.map((value, axis) => `${sides[axis][value < 0 ? 1 : 0]} ${Math.abs(value).toFixed(1)}`).join("  ") + " mm"]);
    layers.forEach(({ layer, at }, place) => {
      if (place && !at) return;
      const value = location.values[at] ? location.values[at].value : NaN;
      if (layer.kind === "labels") {
        const found = layer.classes.find(([label]) => label === value);
        lines.push([layer.title, found ? found[1] : value ? `label ${value}` : "none"]);
      } else {
        const unit = place === 0 ? now.unit : "";
        lines.push([place === 0 ? "value" : layer.title, `${Number(value.toPrecision(4))}${unit ? ` ${unit}` : ""}`]);
      }
    });
    place("where").replaceChildren(...lines.flatMap(([word, text]) => {
      const term = document.createElement("dt"), told = document.createElement("dd");
      term.textContent = word;
      told.textContent = text;
      return [term, told];
    }));
    document.querySelectorAll(".mm-range").forEach((range) => {
      const value = mm[Number(range.dataset.axis)];
      if (document.activeElement !== range) range.value = String(value);
      range.setAttribute("aria-valuetext", `${value.toFixed(1)} mm`);
    });
    stage.dataset.mm = mm.map((value) => value.toFixed(2)).join(" ");
  };

  const setView = (name) => {
    mode = name;
    document.querySelectorAll(".view-button").forEach((one) => one.setAttribute("aria-pressed", String(one.dataset.view === name)));
    nv.setSliceType(TYPES[name]);
  };
  const setTurn = () => nv.setRenderAzimuthElevation(Number(place("turn").value), Number(place("tilt").value));
  const press = (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const turns = mode === "render" && { ArrowLeft: ["turn", -6], ArrowRight: ["turn", 6], ArrowUp: ["tilt", 6], ArrowDown: ["tilt", -6] }[event.key];
    // The patient's right is on the left of the picture.
    const steps = { ArrowLeft: [1, 0, 0], ArrowRight: [-1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0], PageUp: [0, 0, 1], PageDown: [0, 0, -1] }[event.key];
    if (turns) {
      const range = place(turns[0]), full = turns[0] === "turn" ? 360 : 0;
      range.value = String(full ? (Number(range.value) + turns[1] + full) % full : Number(range.value) + turns[1]);
      setTurn();
    } else if (steps) {
      nv.moveCrosshairInVox(...steps);
    }
    // What draws has keys of its own, which would be heard as well.
    event.stopPropagation();
    if (turns || steps) event.preventDefault();
  };

  const start = async () => {
    await nv.attachToCanvas(place("canvas"), true);
    // The keys are those of the stage, which has words for them.
    place("canvas").tabIndex = -1;
    place("canvas").addEventListener("focus", () => stage.focus({ preventScroll: true }));
    stage.addEventListener("keydown", press, true);
    stage.addEventListener("keyup", (event) => event.stopPropagation(), true);
    // Only once the picture was chosen, so that a wheel that goes down the page is not caught.
    stage.addEventListener("pointerdown", () => stage.focus({ preventScroll: true }), true);
    stage.addEventListener("wheel", (event) => { if (document.activeElement !== stage) event.stopPropagation(); }, true);
    stage.addEventListener("contextmenu", (event) => event.preventDefault());
    document.querySelectorAll(".image-button").forEach((one) => one.addEventListener("click", () => open(one.dataset.image)));
    document.querySelectorAll(".view-button").forEach((one) => one.addEventListener("click", () => setView(one.dataset.view)));
    document.querySelectorAll(".mm-range").forEach((range) => range.addEventListener("input", () => {
      const mm = Array.from(nv.frac2mm(nv.scene.crosshairPos, 0, true)).slice(0, 3);
      mm[Number(range.dataset.axis)] = Number(range.value);
      goTo(mm);
    }));
    ["low", "high"].forEach((id) => place(id).addEventListener("change", () => setWindow(Number(place("low").value), Number(place("high").value))));
    place("zoom").addEventListener("input", () => {
      const zoom = Number(place("zoom").value), at = Array.from(nv.frac2mm(nv.scene.crosshairPos));
      nv.setPan2Dxyzmm(zoom > 1 ? [-at[0], -at[1], -at[2], zoom] : [0, 0, 0, 1]);
      nv.setScale(zoom);
    });
    ["turn", "tilt"].forEach((id) => place(id).addEventListener("input", setTurn));
    place("cut").addEventListener("input", () => {
      const share = Number(place("cut").value) / 100;
      nv.setClipPlane(share ? [0.5 - share, 180, 0] : [2, 0, 0]);
    });
    place("smooth").addEventListener("change", () => nv.setInterpolation(!place("smooth").checked));
    setView("multi");
    setTurn();
    await open(decodeURIComponent(location.hash.slice(1)));
  };
  start().catch((error) => cannot(`The viewer could not be started (${error}). The page of the subject shows the same image in slices.`));
})();
