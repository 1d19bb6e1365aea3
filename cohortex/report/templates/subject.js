(() => {
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)");
  const press = (buttons, chosen) => buttons.forEach((button) => button.setAttribute("aria-pressed", String(button === chosen)));

  // One slice of one plane: every layer is a column of slices that is moved behind its window.
  const setSlice = (screen, share) => {
    const count = Number(screen.dataset.count), slice = Math.round(share * (count - 1));
    screen.querySelectorAll(".deep").forEach((use) => use.setAttribute("y", String(-slice * Number(screen.dataset.height))));
  };

  // Left of the cut is before, right of it after; beyond the slider the later picture is whole.
  const setCut = (viewer, share) => viewer.querySelectorAll(".screen").forEach((screen) => {
    const cut = screen.querySelector(".cut"), width = Number(screen.dataset.width), at = share * width;
    if (!cut) return;
    cut.setAttribute("x", String(at));
    cut.setAttribute("width", String(Math.max(width - at, 0)));
    cut.setAttribute("viewBox", `${at} 0 ${Math.max(width - at, 0.01)} ${screen.dataset.height}`);
    const edge = screen.querySelector(".edge");
    edge.setAttribute("x1", String(at));
    edge.setAttribute("x2", String(at));
  });

  document.querySelectorAll(".viewer").forEach((viewer) => {
    const wipe = viewer.querySelector(".wipe-range"), modes = [...viewer.querySelectorAll(".mode-button")];
    const moment = viewer.querySelector(".moment");
    let timer = 0;
    const swap = () => {
      const late = viewer.classList.toggle("late-hidden");
      if (moment) moment.textContent = late ? viewer.dataset.early : viewer.dataset.late;
    };
    const setMode = (mode) => {
      clearInterval(timer);
      const again = viewer.dataset.mode === "flicker" && mode === "flicker";
      // Where motion is to be reduced, each press swaps once.
      if (again && calm.matches) { swap(); return; }
      if (again) mode = "slider";
      viewer.dataset.mode = mode;
      viewer.classList.remove("late-hidden");
      if (moment) moment.textContent = "";
      press(modes, modes.find((button) => button.dataset.mode === mode));
      setCut(viewer, mode === "slider" ? Number(wipe.value) / 100 : 0);
      viewer.querySelectorAll(".late[data-board]").forEach((layer) => {
        if (mode === "board") layer.setAttribute("clip-path", layer.dataset.board);
        else layer.removeAttribute("clip-path");
      });
      if (mode === "flicker" && !calm.matches) timer = setInterval(swap, 600);
      if (mode === "flicker" && calm.matches) swap();
    };
    modes.forEach((button) => button.addEventListener("click", () => setMode(button.dataset.mode)));
    if (wipe) {
      wipe.addEventListener("input", () => {
        if (viewer.dataset.mode !== "slider") setMode("slider");
        setCut(viewer, Number(wipe.value) / 100);
      });
      // The cut follows a pointer that is held down on the picture.
      const drag = (event) => {
        const screen = viewer.querySelector(".screen.front"), field = screen.getBoundingClientRect();
        const width = Number(screen.dataset.width), height = Number(screen.dataset.height);
        const drawn = Math.min(field.width, (field.height * width) / height), left = field.left + (field.width - drawn) / 2;
        wipe.value = String(Math.round(100 * Math.min(1, Math.max(0, (event.clientX - left) / drawn))));
        setCut(viewer, Number(wipe.value) / 100);
      };
      const stand = viewer.querySelector(".stand");
      stand.addEventListener("pointerdown", (event) => {
        if (viewer.dataset.mode !== "slider" || event.button) return;
        stand.setPointerCapture(event.pointerId);
        drag(event);
      });
      stand.addEventListener("pointermove", (event) => { if (event.buttons & 1 && viewer.dataset.mode === "slider") drag(event); });
    }
    const lines = viewer.querySelector(".contours-button");
    const setLines = (on) => { lines.setAttribute("aria-pressed", String(on)); viewer.classList.toggle("contoured", on); };
    if (lines) {
      lines.addEventListener("click", () => setLines(lines.getAttribute("aria-pressed") !== "true"));
      setLines(lines.getAttribute("aria-pressed") === "true");
    }
    viewer.querySelectorAll(".veil-range").forEach((range) => range.addEventListener("input", () => {
      viewer.querySelectorAll(`.map[data-map="${range.dataset.map}"]`).forEach((map) => map.setAttribute("opacity", String(Number(range.value) / 100)));
    }));
  });

  document.querySelectorAll(".image").forEach((image) => {
    const range = image.querySelector(".slice-range"), told = image.querySelector(".slice output");
    const planes = [...image.querySelectorAll(".plane-button")], viewers = [...image.querySelectorAll(".viewer")];
    const setPlane = (name) => {
      press(planes, planes.find((button) => button.dataset.plane === name));
      viewers.forEach((viewer) => {
        const screens = [...viewer.querySelectorAll(".screen")];
        const front = screens.find((screen) => screen.dataset.plane === name) || screens[0];
        screens.forEach((screen) => screen.classList.toggle("front", screen === front));
        viewer.querySelectorAll(".scale").forEach((scale) => scale.classList.toggle("front", front && scale.dataset.plane === front.dataset.plane));
      });
      const slice = image.querySelector(".slice");
      if (slice) slice.classList.toggle("off", name !== "slices");
    };
    planes.forEach((button) => button.addEventListener("click", () => setPlane(button.dataset.plane)));
    setPlane(planes.length ? planes[0].dataset.plane : "slices");
    if (!range) return;
    const most = Number(range.max);
    const show = () => {
      told.textContent = `${Number(range.value) + 1} / ${most + 1}`;
      image.querySelectorAll(".screen.plane-slices").forEach((screen) => setSlice(screen, Number(range.value) / most));
    };
    const step = (by) => {
      const to = Math.min(most, Math.max(0, Number(range.value) + by));
      if (to === Number(range.value)) return false;
      range.value = String(to);
      show();
      return true;
    };
    range.addEventListener("input", show);
    viewers.forEach((viewer) => {
      const stand = viewer.querySelector(".stand");
      stand.addEventListener("keydown", (event) => {
        const by = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 3, PageDown: -3, Home: -most, End: most }[event.key];
        if (!by || event.ctrlKey || event.altKey || event.metaKey) return;
        step(by);
        event.preventDefault();
      });
      // Only once the picture was chosen, so that a wheel that goes down the page is not caught; at the ends the page goes on.
      stand.addEventListener("wheel", (event) => {
        if (document.activeElement === stand && event.deltaY && step(event.deltaY > 0 ? -1 : 1)) event.preventDefault();
      }, { passive: false });
    });
    show();
  });
  window.addEventListener("beforeprint", () => document.querySelectorAll("details:not(.step)").forEach((details) => { details.open = true; }));
})();
