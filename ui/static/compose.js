// The Compose tab: a shelf of adapters, a mixer with their weights, and the picture they make.
"use strict";
(() => {
  const { h, setText, number } = window.Studio;
  const POLL_MS = 350;
  const SETTLE_MS = 300; // a slider that still moves does not draw yet
  const KEPT = "studio-compose";
  const REGIONS = [
    ["", "Whole picture"], ["left", "Left half"], ["right", "Right half"],
    ["top", "Upper half"], ["bottom", "Lower half"], ["painted", "Painted…"],
  ];

  // Gradio brings a tab to life when it is first opened; what is added before that waits.
  let early = null;
  window.Studio.composeAdd = (id) => {
    early = id;
    window.Studio.openTab("compose");
    window.Studio.compose?.addWaiting();
  };

  window.Studio.mountCompose = (element, server) => {
    const root = element.querySelector(".st-compose");
    const state = {
      base: "", chosen: [], cards: [], blocks: [], live: true, compare: false,
      job: null, shown: null, drawing: false, mounted: false,
    };

    // ---- asking: every answer is {…} or {error} ----
    async function ask(name, request) {
      try {
        const answer = await server[name](request);
        if (!answer) return { error: "The studio does not answer. Is it still running?" };
        return answer;
      } catch {
        return { error: "The studio does not answer. Is it still running?" };
      }
    }
    const note = h("p", { class: "st-note st-bad", role: "alert", hidden: true });
    function complain(text) {
      note.hidden = !text;
      setText(note, text || "");
      if (text) note.scrollIntoView({ block: "nearest" });
    }

    // ---- the shelf ----
    const search = h("input", { class: "st-input", type: "search", placeholder: "Search", "aria-label": "Search adapters", oninput: () => drawShelf() });
    const base = h("select", { class: "st-input", "aria-label": "Base model", onchange: () => { state.base = base.value; keep(); refresh(); } });
    const cards = h("div", { class: "st-cards" });
    const reading = h("small", { class: "st-muted", role: "status" });
    let again = null;
    const demo = h("button", { class: "st-link", type: "button", hidden: true, onclick: (event) => getDemo(event) }, "Get the demo adapters");
    const shelf = h("aside", { class: "st-shelf" },
      h("label", { class: "st-field" }, h("span", {}, "Base model"), base),
      h("div", { class: "st-field" }, h("span", {}, "Adapters"), search, reading), cards, demo);

    function drawShelf() {
      const wanted = search.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
      const finals = state.cards.filter((card) => card.step === null);
      const shown = finals.filter((card) => {
        const text = `${card.title} ${card.line} ${card.trigger} ${card.words || ""}`.toLowerCase();
        return wanted.every((word) => text.includes(word));
      });
      cards.replaceChildren(...shown.map(cardButton));
      demo.hidden = !state.base.endsWith("demo_base") || state.cards.some((card) => card.id.startsWith("file/demo-"));
      if (!shown.length && finals.length) cards.append(h("p", { class: "st-muted" }, "Nothing here matches."));
    }

    function cardButton(card) {
      const used = state.chosen.some((one) => familyOf(one.id) === card.id);
      return h("button",
        { class: "st-adapter", type: "button", "data-id": card.id, "aria-pressed": String(used), disabled: Boolean(card.problem) && !used, title: card.problem || card.title, onclick: () => (used ? drop(card.id) : choose(card)) },
        card.thumbnail ? h("img", { src: card.thumbnail, alt: "" }) : h("span", { class: "st-noimage", "aria-hidden": "true" }),
        h("span", {}, h("b", {}, card.title), card.trigger ? h("em", {}, card.trigger) : null,
          h("small", {}, card.problem || card.line)),
        h("i", { class: "st-sign", "aria-hidden": "true" }, used ? "−" : card.problem ? "" : "+"));
    }

    // A run's copies carry its id and their step: `run/NAME/250` belongs to `run/NAME`.
    function familyOf(id) {
      const card = state.cards.find((one) => one.id === id);
      return card && card.step !== null ? id.slice(0, id.lastIndexOf("/")) : id;
    }
    const stepsOf = (id) => state.cards.filter((card) => familyOf(card.id) === familyOf(id));

    function choose(card) {
      state.chosen.push({ id: card.id, weight: 1, parts: {}, blocks: {}, region: "", cells: null, there: "", open: false });
      if (card.prompts.length && (!prompt.value.trim() || isOffered(prompt.value))) {
        prompt.value = state.chosen.length === 1 ? card.prompts[0] : mixedPrompt(card);
      }
      changed();
    }
    const isOffered = (text) => state.cards.some((card) => card.prompts.includes(text.trim()));
    // A style's words lead, as in its captions ("zwx style, ..."); a bare trigger word goes to the end.
    function mixedPrompt(card) {
      const text = prompt.value.trim();
      if (!card.trigger || text.includes(card.trigger)) return text;
      const own = card.prompts[0], lead = own.split(",")[0].trim();
      if (lead.startsWith(card.trigger) && isShort(lead)) return `${lead}, ${text}`;
      return isShort(text) ? `${text}, ${own}` : `${text}, ${card.trigger}`;
    }
    const isShort = (text) => text.split(/\s+/).length <= 3;
    function drop(family) {
      state.chosen = state.chosen.filter((one) => familyOf(one.id) !== family);
      changed();
    }
    function changed() {
      keep();
      drawShelf();
      drawMixer();
      if (state.live) soon();
    }

    // ---- the mixer ----
    const rows = h("div", { class: "st-mix-rows" });
    const hint = h("p", { class: "st-muted" }, "Choose one or more adapters. Weights act at once, nothing is loaded again.");
    const clash = h("div", { class: "st-clash" });
    const overlap = h("button", { class: "st-button", type: "button", onclick: () => interference() }, "Do they get in each other's way?");
    const mixer = h("section", { class: "st-mixer", "aria-label": "Weights" }, h("h2", {}, "Weights"), hint, rows, h("div", { class: "st-buttons" }, overlap), clash);

    function drawMixer() {
      hint.hidden = state.chosen.length > 0;
      overlap.hidden = state.chosen.length < 2;
      if (state.chosen.length < 2) clash.replaceChildren();
      rows.replaceChildren(...state.chosen.map(row));
      for (const button of [drawButton, gridButton, foldButton]) button.disabled = false;
      foldButton.disabled = gridButton.disabled = !state.chosen.length;
    }

    function row(one) {
      const card = state.cards.find((c) => c.id === one.id) || { title: one.id, problem: "It is gone.", prompts: [] };
      const steps = stepsOf(one.id);
      const details = h("div", { class: "st-blocks", hidden: !one.open });
      const toggle = h("button", { class: "st-link", type: "button", "aria-expanded": String(one.open), onclick: () => { one.open = !one.open; details.hidden = !one.open; toggle.setAttribute("aria-expanded", String(one.open)); if (one.open && !details.childNodes.length) fill(); keep(); } }, "By block");
      const fill = () => details.replaceChildren(
        ...state.parts.map(([name, label]) => slider(label, one.parts[name] ?? 1, (v) => setIn(one.parts, name, v))),
        ...state.blocks.map(([name, label]) => slider(label, one.blocks[name] ?? 1, (v) => setIn(one.blocks, name, v))),
        h("button", { class: "st-link", type: "button", onclick: () => { one.parts = {}; one.blocks = {}; fill(); changed(); } }, "All back to 1"));
      if (one.open) fill();
      const title = h("b", { title: card.title }, steps[0] ? steps[0].title : card.title);
      return h("article", { class: "st-mix" },
        h("header", {}, card.thumbnail ? h("img", { src: card.thumbnail, alt: "" }) : null,
          h("span", {}, title, card.trigger ? h("button", { class: "st-tag", type: "button", title: "Put the trigger word into the prompt", onclick: () => addWord(card.trigger) }, card.trigger) : null,
            card.problem ? h("small", { class: "st-bad" }, card.problem) : null),
          h("button", { class: "st-icon", type: "button", "aria-label": `Take ${card.title} off`, title: "Take off", onclick: () => drop(familyOf(one.id)) }, "×")),
        slider("Weight", one.weight, (v) => { one.weight = v; }, -1, 2),
        h("div", { class: "st-mix-more" },
          toggle,
          steps.length > 1 ? h("label", {}, "Step ", h("select", { class: "st-input", onchange: (e) => { one.id = e.target.value; changed(); } },
            ...steps.map((s) => h("option", { value: s.id, selected: s.id === one.id }, s.step === null ? "last" : number(s.step))))) : null,
          h("label", {}, "Where ", regionSelect(one))),
        one.region ? h("input", { class: "st-input", type: "text", maxlength: "2000", value: one.there, placeholder: "Prompt there; empty takes the whole picture's", "aria-label": `Prompt where ${card.title} acts`, oninput: (e) => { one.there = e.target.value; keep(); }, onchange: () => state.live && soon() }) : null,
        details);
    }

    function setIn(table, name, value) {
      if (value === 1) delete table[name];
      else table[name] = value;
    }

    function slider(label, value, set, low = 0, high = 2) {
      const exact = h("input", { class: "st-exact", type: "number", step: "0.05", min: low * 2, max: high * 2, value: String(value), "aria-label": `${label}, exact` });
      const range = h("input", { type: "range", min: low, max: high, step: "0.05", value: String(value), "aria-label": label });
      const take = (text, other) => {
        const next = Number(text);
        if (text === "" || !Number.isFinite(next) || Math.abs(next) > 4) return;
        set(next);
        other.value = String(next);
        keep();
        if (state.live) soon();
      };
      range.addEventListener("input", () => take(range.value, exact));
      exact.addEventListener("input", () => take(exact.value, range));
      return h("label", { class: "st-slide" }, h("span", {}, label), range, exact);
    }

    function regionSelect(one) {
      const select = h("select", { class: "st-input", "aria-label": "Where in the picture it acts", onchange: () => {
        one.region = select.value;
        if (one.region === "painted") paint(one, select);
        else changed();
      } }, ...REGIONS.map(([value, label]) => h("option", { value, selected: value === one.region }, label)));
      return select;
    }

    function addWord(word) {
      if (!prompt.value.includes(word)) prompt.value = [prompt.value.trim(), word].filter(Boolean).join(", ");
      keep();
      if (state.live) soon();
    }

    // ---- painting where one adapter acts: a grid of cells, kept as text ----
    const CELLS = 32;
    function paint(one, select) {
      const cells = one.cells ? [...one.cells] : Array(CELLS * CELLS).fill("0");
      const canvas = h("canvas", { class: "st-paint", width: 384, height: 384, tabindex: "0", role: "img", "aria-label": "Paint where the adapter acts. Arrow keys move, space paints." });
      const pen = canvas.getContext("2d");
      const side = canvas.width / CELLS;
      const cursor = { x: CELLS / 2, y: CELLS / 2 };
      const colour = (name) => getComputedStyle(document.body).getPropertyValue(name);
      const show = () => {
        pen.clearRect(0, 0, canvas.width, canvas.height);
        if (picture.naturalWidth) { pen.globalAlpha = 0.55; pen.drawImage(picture, 0, 0, canvas.width, canvas.height); pen.globalAlpha = 1; }
        pen.fillStyle = colour("--st-accent");
        pen.globalAlpha = 0.6;
        cells.forEach((cell, i) => cell === "1" && pen.fillRect((i % CELLS) * side, Math.floor(i / CELLS) * side, side, side));
        pen.globalAlpha = 1;
        pen.strokeStyle = colour("--st-text");
        if (document.activeElement === canvas) pen.strokeRect(cursor.x * side, cursor.y * side, side, side);
      };
      const picture = new Image();
      picture.onload = show;
      if (state.shown) picture.src = state.shown.after;
      let erase = false;
      const brush = (x, y, value) => {
        for (let dy = -1; dy <= 1; dy += 1) for (let dx = -1; dx <= 1; dx += 1) {
          const [cx, cy] = [x + dx, y + dy];
          if (cx >= 0 && cy >= 0 && cx < CELLS && cy < CELLS) cells[cy * CELLS + cx] = value;
        }
        show();
      };
      const at = (event) => {
        const box = canvas.getBoundingClientRect();
        return [Math.floor(((event.clientX - box.left) / box.width) * CELLS), Math.floor(((event.clientY - box.top) / box.height) * CELLS)];
      };
      canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); erase = event.button === 2 || event.shiftKey; brush(...at(event), erase ? "0" : "1"); });
      canvas.addEventListener("pointermove", (event) => event.buttons && brush(...at(event), erase ? "0" : "1"));
      canvas.addEventListener("contextmenu", (event) => event.preventDefault());
      canvas.addEventListener("keydown", (event) => {
        const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
        if (moves[event.key]) {
          cursor.x = Math.min(CELLS - 1, Math.max(0, cursor.x + moves[event.key][0]));
          cursor.y = Math.min(CELLS - 1, Math.max(0, cursor.y + moves[event.key][1]));
          if (event.shiftKey) brush(cursor.x, cursor.y, "1");
        } else if (event.key === " ") brush(cursor.x, cursor.y, cells[cursor.y * CELLS + cursor.x] === "1" ? "0" : "1");
        else return;
        event.preventDefault();
        event.stopPropagation();
        show();
      });
      const dialog = h("dialog", { class: "st-dialog st-wide-dialog", "aria-label": "Paint where it acts" },
        h("h2", {}, "Where does it act?"), h("p", {}, "Paint over the place. Shift or the right button erases."), canvas,
        h("div", { class: "st-buttons" },
          h("button", { class: "st-button st-primary", type: "button", onclick: () => { one.cells = cells.join(""); dialog.close(); changed(); } }, "Use this"),
          h("button", { class: "st-button", type: "button", onclick: () => { cells.fill("0"); show(); } }, "Clear"),
          h("button", { class: "st-button", type: "button", onclick: () => dialog.close() }, "Cancel")));
      dialog.addEventListener("close", () => {
        if (!one.cells || !one.cells.includes("1")) { one.region = ""; one.cells = null; select.value = ""; }
        dialog.remove();
      });
      root.append(dialog);
      dialog.showModal();
      show();
    }

    // ---- the picture ----
    const prompt = h("textarea", { class: "st-input", rows: "2", maxlength: "2000", "aria-label": "Prompt", id: "st-prompt", oninput: () => keep(), onchange: () => state.live && soon() });
    const field = (label, props, help) => {
      const input = h("input", { class: "st-input", "aria-label": label, ...props, oninput: () => keep(), onchange: () => state.live && soon() });
      return [input, h("label", { class: "st-field" }, h("span", {}, label), input, help ? h("small", { class: "st-muted" }, help) : null)];
    };
    const [seed, seedField] = field("Seed", { type: "text", inputmode: "numeric", value: "42" });
    const [negative, negativeField] = field("Not in the picture", { type: "text", maxlength: "2000" });
    const [steps, stepsField] = field("Steps", { type: "number", min: 1, max: 150 });
    const [cfg, cfgField] = field("Guidance", { type: "number", min: 0, max: 30, step: "0.5" });
    const [size, sizeField] = field("Size (px)", { type: "text", placeholder: "512 or 768x512" });
    const drawButton = h("button", { class: "st-button st-primary", type: "button", id: "st-draw", onclick: () => draw() }, "Draw");
    const dice = h("button", { class: "st-button", type: "button", title: "Another seed", onclick: () => { seed.value = String(Math.floor(Math.random() * 1e6)); draw(); } }, "Another");
    const compare = h("button", { class: "st-button", type: "button", "aria-pressed": "false", onclick: () => { state.compare = !state.compare; compare.setAttribute("aria-pressed", String(state.compare)); keep(); drawPicture(); } }, "Compare with base");
    const gridButton = h("button", { class: "st-button", type: "button", onclick: () => gridDialog() }, "XY grid");
    const foldButton = h("button", { class: "st-button", type: "button", onclick: () => foldDialog() }, "Fold into one file");
    const live = h("input", { type: "checkbox", checked: true, onchange: () => { state.live = live.checked; keep(); if (state.live) soon(); } });
    const busyText = h("span", {});
    const busyBar = h("i", {});
    const busy = h("div", { class: "st-busy", role: "status", hidden: true }, busyText, h("span", { class: "st-bar" }, busyBar));
    const figure = h("figure", { class: "st-canvas" });
    const canvas = h("section", { class: "st-stage-picture", "aria-label": "Picture" },
      h("label", { class: "st-field" }, h("span", {}, "Prompt"), prompt),
      h("div", { class: "st-draw-row" }, seedField, h("div", { class: "st-buttons" }, drawButton, dice), h("label", { class: "st-check" }, live, " Draw as I change weights")),
      h("details", { class: "st-more" }, h("summary", {}, "More"), h("div", { class: "st-more-fields" }, negativeField, stepsField, cfgField, sizeField)),
      h("div", { class: "st-easel" }, busy, figure),
      h("div", { class: "st-buttons" }, compare, gridButton, foldButton));

    function request() {
      return {
        base: state.base,
        chosen: state.chosen.map(({ id, weight, parts, blocks, region, cells, there }) => ({ id, weight, parts, blocks, region, cells, there })),
        prompt: prompt.value, negative: negative.value, seed: seed.value,
        steps: steps.value, cfg: cfg.value, size: size.value,
      };
    }

    let waiting = null;
    function soon() {
      clearTimeout(waiting);
      waiting = setTimeout(() => prompt.value.trim() && draw(), SETTLE_MS);
    }

    async function draw() {
      clearTimeout(waiting);
      const answer = await ask("compose_draw", request());
      complain(answer.error);
      if (!answer.job) return;
      state.job = answer.job;
      if (!state.drawing) follow();
    }

    async function follow() {
      state.drawing = true;
      while (state.job) {
        const asked = state.job;
        const answer = await ask("compose_job", { job: asked });
        if (asked !== state.job) continue; // a newer one is asked for by now
        if (answer.error) {
          complain(answer.error);
          state.job = null;
        } else if (answer.state === "done") {
          state.shown = { ...answer, job: asked };
          state.job = null;
          drawPicture();
        } else {
          busy.hidden = false;
          setText(busyText, answer.text || "Waiting");
          busyBar.style.width = `${((answer.share || 0) * 100).toFixed(1)}%`;
          await new Promise((resolve) => setTimeout(resolve, POLL_MS));
        }
      }
      busy.hidden = true;
      state.drawing = false;
    }

    function drawPicture() {
      const shown = state.shown;
      if (!shown) {
        figure.replaceChildren(h("div", { class: "st-blank" }, h("span", {}, state.chosen.length ? "Press Draw" : "The picture appears here")));
        return;
      }
      const after = h("img", { src: shown.after, "data-before": shown.before, alt: `${shown.label}: ${shown.prompt}` });
      const caption = h("figcaption", {}, h("span", { class: "st-muted" }, shown.parameters), h("span", { class: "st-keys", "aria-hidden": "true" }, h("kbd", {}, "B"), " hold for the base alone"));
      if (!state.compare) {
        figure.replaceChildren(h("div", { class: "st-frame" }, after), caption);
        return;
      }
      const before = h("img", { src: shown.before, alt: `Base alone: ${shown.prompt}`, class: "st-under" });
      const knob = h("input", { type: "range", min: 0, max: 100, value: "50", class: "st-wipe", "aria-label": "How much of the base alone to show" });
      const line = h("i", { class: "st-wipe-line" });
      const move = () => {
        after.style.clipPath = `inset(0 0 0 ${knob.value}%)`;
        line.style.left = `${knob.value}%`;
      };
      knob.addEventListener("input", move);
      figure.replaceChildren(h("div", { class: "st-frame" }, before, after, line, h("span", { class: "st-side-word" }, "Base"), h("span", { class: "st-side-word st-right" }, "Mix"), knob), caption);
      move();
    }

    // ---- what stays when the page is left ----
    function keep() {
      const { chosen, base: kept, live: isLive, compare: isCompared } = state;
      const fields = Object.fromEntries(Object.entries({ prompt, seed, negative, steps, cfg, size }).map(([name, input]) => [name, input.value]));
      try {
        localStorage.setItem(KEPT, JSON.stringify({ chosen, base: kept, live: isLive, compare: isCompared, fields }));
      } catch { /* a full or forbidden store only forgets */ }
    }
    function restore() {
      try {
        const kept = JSON.parse(localStorage.getItem(KEPT) || "{}");
        if (Array.isArray(kept.chosen)) state.chosen = kept.chosen.filter((one) => one && typeof one.id === "string" && one.parts && one.blocks);
        if (typeof kept.base === "string") state.base = kept.base;
        state.live = live.checked = kept.live !== false;
        state.compare = kept.compare === true;
        compare.setAttribute("aria-pressed", String(state.compare));
        for (const [name, input] of Object.entries({ prompt, seed, negative, steps, cfg, size })) {
          if (kept.fields && typeof kept.fields[name] === "string" && kept.fields[name]) input.value = kept.fields[name];
        }
      } catch { /* what another version left is not understood */ }
    }

    // ---- empty ----
    function drawEmpty() {
      root.replaceChildren(h("div", { class: "st-empty" },
        h("img", { src: "/studio/static/mix.svg", alt: "", width: "340", height: "150" }),
        h("h1", {}, "Nothing to compose yet"),
        h("p", {}, "Here adapters are weighed against each other, drawn with, and folded into one file."),
        note,
        h("div", { class: "st-buttons" },
          h("button", { class: "st-button st-primary", type: "button", onclick: getDemo }, "Get the demo adapters"),
          h("button", { class: "st-button", type: "button", onclick: () => window.Studio.openTab("train") }, "Train one"))));
    }
    async function getDemo(event) {
      const button = event.currentTarget;
      button.disabled = true;
      const answer = await ask("compose_demo", {});
      button.disabled = false;
      await refresh();
      if (answer.error) complain(answer.error);
    }

    async function refresh() {
      const offer = await ask("compose_offer", { base: state.base });
      if (offer.error) return complain(offer.error);
      complain(offer.problem);
      setText(reading, offer.reading ? `Reading the library: ${number(offer.reading[0])} of ${number(offer.reading[1])}` : "");
      clearTimeout(again);
      if (offer.reading) again = setTimeout(refresh, 1500);
      state.cards = offer.cards;
      state.blocks = offer.blocks;
      state.parts = offer.parts;
      state.base = offer.base;
      base.replaceChildren(...offer.bases.map(([label, value]) => h("option", { value, selected: value === offer.base }, label)));
      for (const [name, input] of Object.entries({ steps, cfg, size })) if (!input.value) input.value = String(offer.defaults[name]);
      state.chosen = state.chosen.filter((one) => state.cards.some((card) => card.id === one.id));
      if (!state.cards.length) return drawEmpty();
      if (!shelf.isConnected) root.replaceChildren(shelf, h("div", { class: "st-mix-column" }, note, mixer), canvas);
      drawShelf();
      drawMixer();
      drawPicture();
    }

    Object.assign(window.Studio.compose = {}, {
      ask, complain, state, root, request, refresh, h,
      addWaiting: async () => {
        await refresh();
        const id = early;
        early = null;
        const card = state.cards.find((one) => one.id === id);
        if (card && !card.problem && !state.chosen.some((one) => familyOf(one.id) === familyOf(id))) choose(card);
      },
    });
    const interference = () => window.Studio.composeInterference(clash);
    const gridDialog = () => window.Studio.composeGrid();
    const foldDialog = () => window.Studio.composeFold();

    window.Studio.onKey((event, free) => {
      if (window.Studio.currentTab() !== "compose") return;
      if (event.key === "/" && event.type === "keydown" && free) {
        event.preventDefault();
        search.focus();
      }
      if (event.key === "b" && state.shown && (event.type === "keyup" || (free && !event.repeat))) {
        const image = figure.querySelector("img[data-before]");
        if (image) image.src = event.type === "keydown" ? state.shown.before : state.shown.after;
      }
    });
    restore();
    window.Studio.compose.addWaiting();
    // What was trained meanwhile is offered as soon as the tab is opened.
    document.addEventListener("click", (event) => {
      if (event.target.closest?.("#st-tabs button[role=tab]")) setTimeout(() => window.Studio.currentTab() === "compose" && refresh(), 0);
    });
    window.Studio.nameKey("B", "hold: the base alone (Compose), before training (Runs)");
  };
})();
