"use strict";
// What a rater says of images, kept by the browser where it keeps data of files, handed out and read in as a table.
const makeRatings = (store) => {
  const COLUMNS = ["image", "rating", "note", "rater", "date"];
  const WORDS = ["accept", "reject", "unsure"];
  const listeners = [];
  let memory = { rater: "", rows: {} };
  let keeps = true;
  const plain = (value, most) => String(value === undefined || value === null ? "" : value).replace(/\s+/g, " ").trim().slice(0, most);
  const load = () => {
    try {
      const found = JSON.parse(localStorage.getItem(store) || "null");
      if (found && typeof found === "object" && found.rows && typeof found.rows === "object") memory = { rater: plain(found.rater, 60), rows: found.rows };
    } catch { keeps = false; }
  };
  const save = () => {
    try { localStorage.setItem(store, JSON.stringify(memory)); } catch { keeps = false; }
    listeners.forEach((listener) => listener());
  };
  const key = (image, rater) => image + "\t" + rater;
  const get = (image) => memory.rows[key(image, memory.rater)];
  const set = (image, rating, note) => {
    if (!WORDS.includes(rating)) delete memory.rows[key(image, memory.rater)];
    else memory.rows[key(image, memory.rater)] = { image, rating, note: plain(note, 500), rater: memory.rater, date: new Date().toISOString().slice(0, 16) + "Z" };
    save();
  };
  const setRater = (name) => {
    const rater = plain(name, 60);
    // What was rated before the name was given is this rater's.
    Object.values(memory.rows).filter((row) => !row.rater && rater).forEach((row) => {
      delete memory.rows[key(row.image, "")];
      if (!memory.rows[key(row.image, rater)]) memory.rows[key(row.image, rater)] = { ...row, rater };
    });
    memory.rater = rater;
    save();
  };
  const rows = () => Object.values(memory.rows).sort((a, b) => (a.image + "\t" + a.rater < b.image + "\t" + b.rater ? -1 : 1));
  // A cell that a spreadsheet would compute gets an apostrophe; numbers stay as they are.
  const cell = (value) => {
    const text = plain(value, 1000);
    return /^[=+\-@]/.test(text) && !Number.isFinite(Number(text)) ? "'" + text : text;
  };
  const text = () => [COLUMNS, ...rows().map((row) => COLUMNS.map((name) => cell(row[name])))].map((cells) => cells.join("\t") + "\n").join("");
  const read = (table) => {
    const lines = table.replace(/^\ufeff/, "").split(/\r\n|\r|\n/);
    const columns = lines[0].split("\t").map((name) => name.trim());
    if (!columns.includes("image") || !columns.includes("rating")) return { error: "This is no table of ratings: its first line names no image and rating." };
    let taken = 0;
    const wrong = [];
    lines.slice(1).forEach((line, index) => {
      if (!line.trim()) return;
      const cells = line.split("\t");
      const row = Object.fromEntries(COLUMNS.map((name) => {
        const value = columns.includes(name) ? plain(cells[columns.indexOf(name)], 1000) : "";
        return [name, /^'[=+\-@]/.test(value) ? value.slice(1) : value];
      }));
      row.rating = row.rating.toLowerCase();
      if (!row.image || !WORDS.includes(row.rating)) { wrong.push(index + 2); return; }
      row.rater = row.rater || memory.rater;
      memory.rows[key(row.image, row.rater)] = row;
      taken += 1;
    });
    save();
    return { taken, wrong };
  };
  const handOut = () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text()], { type: "text/tab-separated-values" }));
    link.download = "ratings.tsv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
  window.addEventListener("storage", (event) => {
    if (event.key === store) { load(); listeners.forEach((listener) => listener()); }
  });
  load();
  return { get, set, setRater, rows, text, read, handOut, rater: () => memory.rater, keeps: () => keeps, onChange: (listener) => listeners.push(listener) };
};

// The bar with the rater's name and the buttons, the same on every page.
const ratings = (() => {
  const bar = document.querySelector("[data-store]");
  if (!bar) return null;
  const made = makeRatings(bar.dataset.store);
  const [rater, told, file] = ["#rater", "#rated", "#read-in"].map((id) => bar.querySelector(id));
  let last = "";
  const show = () => {
    const count = made.rows().length;
    const kept = made.keeps() ? "in this browser" : "on this page only, as this browser keeps nothing: download before you leave";
    told.textContent = [last, `${count} ${count === 1 ? "rating" : "ratings"} ${kept}`].filter(Boolean).join(" · ");
    if (document.activeElement !== rater) rater.value = made.rater();
  };
  rater.addEventListener("change", () => made.setRater(rater.value));
  bar.querySelector("#hand-out").addEventListener("click", made.handOut);
  file.addEventListener("change", async () => {
    if (!file.files.length) return;
    const found = made.read(await file.files[0].text());
    last = found.error || `${found.taken} read in${found.wrong.length ? `, not understood: line ${found.wrong.slice(0, 5).join(", ")}` : ""}`;
    file.value = "";
    show();
  });
  made.onChange(show);
  show();
  document.querySelectorAll(".rating").forEach((set) => {
    const image = set.dataset.image, note = set.querySelector(".rating-note"), radios = [...set.querySelectorAll("input[type=radio]")];
    const state = () => {
      const found = made.get(image) || { rating: "", note: "" };
      radios.forEach((radio) => { radio.checked = radio.value === found.rating; });
      if (document.activeElement !== note) note.value = found.note;
      set.classList.toggle("rated", Boolean(found.rating));
    };
    const chosen = () => (radios.find((radio) => radio.checked) || {}).value;
    radios.forEach((radio) => radio.addEventListener("change", () => made.set(image, chosen(), note.value)));
    note.addEventListener("change", () => { if (chosen()) made.set(image, chosen(), note.value); });
    set.querySelector(".rating-clear").addEventListener("click", () => { note.value = ""; made.set(image, "", ""); });
    made.onChange(state);
    state();
  });
  return made;
})();
