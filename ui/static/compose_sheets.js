// Sheets of the Compose tab: interference, the XY grid, folding and export.
"use strict";
(() => {
  const { h, setText } = window.Studio;
  const POLL_MS = 500;

  // A task's progress in `bar`; resolves with its result, or null after telling why not.
  async function run(name, request, bar) {
    const compose = window.Studio.compose;
    const begun = await compose.ask(name, request);
    if (begun.error) return bar.fail(begun.error);
    bar.begin(() => compose.ask("compose_cancel", { task: begun.task }));
    for (;;) {
      const told = await compose.ask("compose_task", { task: begun.task });
      if (told.error) return bar.fail(told.error);
      if (told.state === "failed") return bar.fail(told.error || "It failed.");
      if (told.state === "cancelled") return bar.fail("");
      if (told.state === "done") {
        bar.end();
        return { task: begun.task, ...told.result };
      }
      bar.tell(told.text || told.title, told.share);
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  function progress() {
    const text = h("span", {});
    const fill = h("i", {});
    const stop = h("button", { class: "st-button", type: "button" }, "Cancel");
    const track = h("span", { class: "st-bar" }, fill);
    const busy = h("div", { class: "st-busy", role: "status", hidden: true }, text, track, stop);
    const note = h("p", { class: "st-note st-bad", role: "alert", hidden: true });
    return {
      node: h("div", { class: "st-progress" }, busy, note),
      begin(cancel) {
        note.hidden = true;
        busy.hidden = false;
        setText(text, "Starting");
        stop.disabled = false;
        stop.onclick = () => { stop.disabled = true; cancel(); };
      },
      tell(said, share) {
        setText(text, said);
        track.classList.toggle("st-waiting", share === null);
        fill.style.width = `${((share === null ? 1 : share) * 100).toFixed(1)}%`;
      },
      end() { busy.hidden = true; },
      fail(said) {
        busy.hidden = true;
        note.hidden = !said;
        setText(note, said);
        return null;
      },
    };
  }

  function sheet(title, ...children) {
    const dialog = h("dialog", { class: "st-dialog st-sheet", "aria-label": title },
      h("header", {}, h("h2", {}, title),
        h("button", { class: "st-icon", type: "button", "aria-label": "Close", title: "Close", onclick: () => dialog.close() }, "×")),
      ...children);
    dialog.addEventListener("close", () => dialog.remove());
    window.Studio.compose.root.append(dialog);
    dialog.showModal();
    return dialog;
  }

  const field = (label, input, help) =>
    h("label", { class: "st-field" }, h("span", {}, label), input, help ? h("small", { class: "st-muted" }, help) : null);
  const select = (options, props = {}) =>
    h("select", { class: "st-input", ...props }, ...options.map(([value, label]) => h("option", { value }, label)));

  // ---- interference ----
  window.Studio.composeInterference = async (place) => {
    const bar = progress();
    place.replaceChildren(bar.node);
    const found = await run("compose_interference", window.Studio.compose.request(), bar);
    if (!found) return;
    place.replaceChildren(...found.pairs.map(pair));
  };

  const ORDER = ["text_encoder", "text_encoder_2", "conv_in", "time", "down.0", "down.1", "down.2", "down.3", "mid", "up.0", "up.1", "up.2", "up.3", "conv_out"];
  const labelOf = (block) => {
    const [side, level] = block.split(".");
    const words = { text_encoder: "Text", text_encoder_2: "Text 2", mid: "Mid", time: "Time", conv_in: "First", conv_out: "Last" };
    if (words[block]) return words[block];
    return `${side === "down" ? "In" : "Out"} ${Number(level) + 1}`;
  };

  // One pair as a strip of blocks: the darker, the more they work on the same directions.
  function pair(one) {
    const blocks = [...one.blocks].sort((a, b) => ORDER.indexOf(a.block) - ORDER.indexOf(b.block));
    const top = Math.max(...blocks.map((block) => block.interference), 1e-9);
    return h("section", { class: "st-pair-map" },
      h("h3", {}, `${one.first} with ${one.second}`),
      h("p", { class: "st-muted" }, `Overlap ${one.overlap.toFixed(2)}; by chance it would be ${one.chance.toFixed(2)}.`),
      h("ol", { class: "st-heat" }, ...blocks.map((block) => {
        const share = Math.round(block.interference * 100);
        const depth = (block.interference / top) * 100;
        return h("li", { style: `--depth:${depth.toFixed(0)}%`, class: depth > 55 ? "st-deep" : "", title: `${labelOf(block.block)}: overlap ${block.overlap.toFixed(2)}, by chance ${block.chance.toFixed(2)}` },
          h("b", {}, `${share}%`), h("small", {}, labelOf(block.block)));
      })),
      one.advice.length ? h("ul", { class: "st-words" }, ...one.advice.map((line) => h("li", {}, line.replace(/\b(?:(?:up|down)\.\d|mid)\b/g, labelOf)))) : null);
  }

  // ---- XY grid ----
  const USUAL = { weight: "0, 0.4, 0.8, 1.2", seed: "1, 2, 3, 4", prompt: "", steps: "10, 20, 30", cfg: "1, 2, 4, 7" };
  const usual = (kind) => (kind === "prompt" ? window.Studio.compose.request().prompt : USUAL[kind.split("/")[0]]);
  window.Studio.composeGrid = () => {
    const compose = window.Studio.compose;
    const bar = progress();
    const picture = h("div", { class: "st-grid-picture" });
    const weights = compose.request().chosen.map((one) => [`weight/${one.id}`, `Weight of ${(compose.state.cards.find((card) => card.id === one.id) || { title: one.id }).title}`]);
    const AXES = [...weights, ["seed", "Seed"], ["prompt", "Prompt"], ["steps", "Steps"], ["cfg", "Guidance"]];
    const axis = (name, first) => {
      const kind = select(AXES, { "aria-label": `${name} axis` });
      kind.value = first;
      const values = h("input", { class: "st-input", type: "text", value: usual(first), "aria-label": `${name} values` });
      kind.onchange = () => { values.value = usual(kind.value); };
      return { kind, values, node: h("div", { class: "st-axis" }, field(`${name} axis`, kind), field("Values", values, "Separated by commas; prompts by |")) };
    };
    const x = axis("X", AXES[0][0]);
    const y = axis("Y", weights[1] ? weights[1][0] : "seed");
    const go = h("button", { class: "st-button st-primary", type: "button", onclick: async () => {
      go.disabled = true;
      const asked = { ...compose.request(), x_kind: x.kind.value, x_values: x.values.value, y_kind: y.kind.value, y_values: y.values.value };
      const found = await run("compose_grid", asked, bar);
      go.disabled = false;
      if (found && found.picture) {
        picture.replaceChildren(h("img", { src: found.picture, alt: `Grid over ${x.kind.selectedOptions[0].text} and ${y.kind.selectedOptions[0].text}` }),
          h("a", { class: "st-button", href: found.picture, download: "grid.png" }, "Save picture"));
      }
    } }, "Draw the grid");
    sheet("XY grid", h("div", { class: "st-axes" }, x.node, y.node), h("div", { class: "st-buttons" }, go), bar.node, picture);
  };

  // ---- fold and export ----
  const METHODS = [
    ["exact", "Exact: the sum as it is"], ["svd", "SVD: the best of a rank"], ["ties", "TIES: signs agree"],
    ["dare", "DARE: thinned out"], ["prune", "Pruned: the largest only"], ["orthogonal", "Orthogonal: overlap removed"],
  ];

  window.Studio.composeFold = () => {
    const compose = window.Studio.compose;
    const asked = compose.request();
    const placed = asked.chosen.some((one) => one.region);
    const titles = asked.chosen.map((one) => (compose.state.cards.find((card) => card.id === one.id) || {}).title || "").filter(Boolean);
    const name = h("input", { class: "st-input", type: "text", maxlength: "80", value: titles.join(" + ").replace(/[^\w .()+-]/g, "").slice(0, 80) || "mix", "aria-label": "Name" });
    const method = select(METHODS, { "aria-label": "Method" });
    const rank = h("input", { class: "st-input", type: "number", min: "1", max: "1024", value: "32", "aria-label": "Rank" });
    const rankField = field("Rank", rank, "Larger is closer to the sum, and a larger file.");
    rankField.hidden = true;
    method.onchange = () => { rankField.hidden = method.value === "exact"; };
    const format = select([["kohya", "kohya: most programs"], ["diffusers", "diffusers"], ["lycoris", "LyCORIS"]], { "aria-label": "Format" });
    const bar = progress();
    const report = h("div", { class: "st-report" });
    const go = h("button", { class: "st-button st-primary", type: "button", onclick: async () => {
      go.disabled = true;
      report.replaceChildren();
      const found = await run("compose_fold", { ...asked, name: name.value, method: method.value, rank: rank.value }, bar);
      const written = found && format.value !== "kohya" ? await run("compose_convert", { task: found.task, format: format.value }, bar) : found;
      go.disabled = false;
      if (written) show({ ...found, task: written.task, url: written.url, size: written.size });
    } }, "Fold");

    async function show(found) {
      const readers = h("ul", { class: "st-readers" }, ...Object.values(window.Studio.readers).map((label) => h("li", {}, h("i", { class: "st-wait" }), label)));
      const saved = h("span", { class: "st-muted", role: "status" });
      const top = Math.max(...found.worst.map((one) => one.error || 0), 1e-12);
      report.replaceChildren(
        h("p", { class: "st-note st-good" }, h("b", {}, `${found.name} is ready.`), ` ${found.size}, ${found.layers} layers.`),
        h("h3", {}, "How close it is to the mix"),
        h("p", { class: "st-muted" }, found.max_error === null || found.max_error === undefined ? "" : `Largest error of a layer: ${Number(found.max_error).toExponential(1)} of its size.`),
        h("details", {}, h("summary", {}, "Layer by layer"), h("ul", { class: "st-errors" }, ...found.worst.map((one) =>
          h("li", {}, h("span", {}, one.key), h("i", { style: `width:${((one.error / top) * 100).toFixed(1)}%` }), h("b", {}, Number(one.error).toExponential(1)))))),
        h("h3", {}, "Who reads it"), readers,
        h("div", { class: "st-buttons" },
          h("a", { class: "st-button st-primary", href: found.url, download: found.name }, "Export"),
          h("button", { class: "st-button", type: "button", onclick: async (event) => {
            event.currentTarget.disabled = true;
            const kept = await compose.ask("compose_keep", { task: found.task, job: compose.state.shown ? compose.state.shown.job : "" });
            setText(saved, kept.error || `In the library as ${kept.name}.`);
            if (!kept.error) compose.refresh();
          } }, "Add to library"), saved));
      const checked = await run("compose_verify", { task: found.task, base: asked.base }, bar);
      if (!checked) return;
      for (const [key, label] of Object.entries(window.Studio.readers)) {
        const told = checked.consumers[key];
        const item = [...readers.children].find((one) => one.textContent.startsWith(label));
        if (!told || !item) continue;
        const why = told.reads ? `${told.consumed} of ${told.total} keys` : window.Studio.whyUnread(told);
        item.replaceChildren(h("i", { class: told.reads ? "st-yes" : "st-no", "aria-hidden": "true" }, told.reads ? "✓" : "✗"), label, h("small", { class: "st-muted" }, `${told.reads ? "reads it" : "does not read it right"} · ${why}`));
      }
    }

    sheet("Fold into one file",
      placed ? h("p", { class: "st-note st-bad" }, "A file acts on the whole picture: the places you gave are left out.") : null,
      h("div", { class: "st-axes" }, field("Name", name), field("Method", method), rankField, field("Format", format)),
      h("div", { class: "st-buttons" }, go), bar.node, report);
  };
})();
