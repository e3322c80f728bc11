// The Tools and Settings tabs.
"use strict";
(() => {
  const Studio = window.Studio;
  const { h, setText, number } = Studio;
  const button = (text, onclick, props = {}) => h("button", { class: "st-button", type: "button", onclick, ...props }, text);
  const field = (label, control, help) => {
    control.id = `st-t-${label.toLowerCase().replace(/[^a-z]+/g, "-")}`;
    return h("div", { class: "st-t-field" }, h("label", { for: control.id }, label), control, help ? h("small", { class: "st-muted" }, help) : null);
  };
  const choose = (options, value) => {
    const node = h("select", {}, options.map(([key, text]) => h("option", { value: key }, text)));
    node.value = value;
    return node;
  };
  const text = (value = "", props = {}) => h("input", { type: "text", value, spellcheck: "false", autocomplete: "off", ...props });
  const asker = (server) => async (question, request = {}) => {
    const answer = await server[question](request).catch(() => undefined);
    return answer || { error: "The studio did not answer. Try again in a moment." };
  };

  Studio.mountTools = (element, server) => {
    const root = element.querySelector(".st-tools-tab");
    const ask = asker(server);
    const state = { open: null, facts: null, round: 0 };
    const note = h("p", { class: "st-note", hidden: true });
    const busy = h("div", { class: "st-busy", hidden: true });
    const pick = h("input", { type: "file", hidden: true, accept: ".safetensors", "aria-label": "Adapter file", onchange: () => { if (pick.files[0]) take(pick.files[0]); pick.value = ""; } });
    const path = text("", { placeholder: "/home/me/loras/my-cat.safetensors" });
    const form = h("form", { class: "st-t-open", onsubmit: (event) => { event.preventDefault(); look({ path: path.value }); } },
      field("File on this computer", path), h("button", { class: "st-button", type: "submit" }, "Open file"));
    const place = h("div", { class: "st-t-place" });
    const drop = h("div", { class: "st-t-drop" },
      h("img", { src: "/studio/static/adapter.svg", width: "200", height: "130", alt: "" }),
      h("h1", {}, "Drop an adapter here"),
      h("p", {}, "See what a .safetensors file is, who reads it, and change it: another format, fewer ranks, other metadata. The file itself stays as it is."),
      h("div", { class: "st-buttons" }, button("Choose a file", () => pick.click(), { class: "st-button st-primary" }), button("Extract from two models", () => show(extractSheet()))));
    root.append(note, busy, drop, form, place, pick);

    const say = (kind, words) => {
      note.hidden = !words;
      note.className = `st-note st-${kind}`;
      note.setAttribute("role", kind === "bad" ? "alert" : "status");
      note.replaceChildren(h("span", {}, words || ""));
    };

    function showBusy(words, share, cancel) {
      busy.hidden = !words;
      if (!words) return busy.replaceChildren();
      const known = typeof share === "number";
      busy.replaceChildren(
        h("div", { class: "st-ends", role: "status" }, h("span", {}, h("span", { class: "st-dot" }), words), cancel ? button("Cancel", cancel, { class: "st-button st-t-small" }) : null),
        h("div", { class: `st-bar${known ? "" : " st-waiting"}`, role: "progressbar", "aria-label": words }, h("i", { style: `width:${known ? share * 100 : 0}%` })));
    }

    // The end of a task, or nothing where it failed or was cancelled; then the page says so.
    async function finished(begun, title) {
      if (begun.error) return say("bad", begun.error), null;
      say("good", "");
      for (;;) {
        const told = await ask("tools_task", { task: begun.task });
        if (told.state === "running") {
          showBusy(told.text && told.share !== null ? `${title} · ${told.text}` : title, told.share, () => ask("tools_cancel", { task: begun.task }));
          await new Promise((done) => setTimeout(done, 300));
          continue;
        }
        showBusy("");
        if (told.state === "done") return told;
        if (told.error) say("bad", told.error);
        return null;
      }
    }

    async function take(file) {
      say("good", "");
      showBusy(`Taking in ${file.name}`, null);
      try {
        await look({ upload: await Studio.upload(file) });
      } catch (error) {
        showBusy("");
        say("bad", error.message || "The upload failed. Try again.");
      }
    }

    async function look(request) {
      state.round += 1;
      const round = state.round;
      const answer = await ask("tools_open", request);
      showBusy("");
      if (answer.error) {
        place.replaceChildren();
        return say("bad", answer.error);
      }
      const told = await finished(answer, "Looking into the file");
      if (!told || round !== state.round) return;
      state.open = answer;
      state.facts = told.result;
      root.classList.add("st-has-file");
      draw();
    }

    const spread = (counts) => Object.entries(counts || {}).map(([value, count], i, all) => (all.length > 1 ? `${value} (${number(count)}×)` : value)).slice(0, 6).join(", ");

    function draw() {
      const { open, facts } = state;
      const rows = [
        ["What", `${facts.kind} (${facts.format})`], ["Made for", facts.arch || "unknown"], ["Rank", spread(facts.ranks)], ["Alpha", spread(facts.alphas)],
        ["Layers", Object.entries(facts.modules || {}).map(([part, count]) => `${part} ${number(count)}`).join(", ")],
        ["Numbers", Object.keys(facts.dtypes || {}).join(", ")], ["Trigger words", (facts.trigger_words || []).join(", ")], ["Base", facts.base],
        ["AutoV2", facts.hashes && facts.hashes.autov2], ["AutoV3", facts.hashes && facts.hashes.autov3], ["SHA-256", facts.hashes && facts.hashes.sha256],
      ].filter(([, value]) => value);
      const entries = Object.entries(facts.metadata || {});
      const actions = [["Verify", verify], ["Convert", () => show(convertSheet())], ["Resize", () => show(resizeSheet())], ["Edit metadata", () => show(editSheet())], ["Clean before sharing", () => show(cleanSheet())]];
      place.replaceChildren(
        h("div", { class: "st-head" },
          h("div", {}, h("h1", {}, facts.title || open.name), h("p", { class: "st-sub" }, `${open.name} · ${open.size}`)),
          h("div", { class: "st-buttons" }, actions.map(([label, does]) => button(label, does)))),
        h("div", { class: "st-t-sheet" }),
        ...(facts.problems && facts.problems.length ? [h("ul", { class: "st-t-problems" }, facts.problems.map((each) => h("li", {}, each)))] : []),
        h("section", { class: "st-card" }, h("dl", { class: "st-t-facts" }, rows.map(([label, value]) => h("div", {}, h("dt", {}, label), h("dd", {}, value))))),
        h("details", { class: "st-card st-details" }, h("summary", {}, `Metadata: ${number(entries.length)} entries`),
          h("dl", { class: "st-t-meta" }, entries.map(([key, value]) => h("div", {}, h("dt", {}, key), h("dd", {}, value.length > 400 ? `${value.slice(0, 400)} …` : value))))));
    }

    // ---- sheets ----
    const show = (node) => {
      const inside = place.querySelector(".st-t-sheet");
      if (inside) inside.replaceChildren(node);
      else place.replaceChildren(h("div", { class: "st-t-sheet" }, node));
      node.querySelector("input, select, button")?.focus();
    };
    const sheet = (title, body, main, does) => {
      const result = h("div", { class: "st-t-result", role: "status" });
      const go = button(main, async () => {
        go.disabled = true;
        await does(result);
        go.disabled = false;
      }, { class: "st-button st-primary" });
      return h("section", { class: "st-card st-t-form", "aria-label": title }, h("h2", {}, title), body, h("div", { class: "st-buttons" }, go), result);
    };

    async function made(begun, title, result, words) {
      const told = await finished(begun, title);
      if (!told) return;
      const { made: file, result: facts } = told;
      if (!file) return say("bad", "The tool wrote no file. Try again.");
      const keep = button("Add to library", async () => {
        const answer = await ask("tools_keep", { file: file.file });
        if (answer.error) return say("bad", answer.error);
        keep.disabled = true;
        setText(keep, "In the library");
      });
      result.replaceChildren(
        h("p", { class: "st-note st-good" }, h("b", {}, file.name), ` ${file.size}. ${words(facts)}`),
        h("div", { class: "st-buttons" }, h("a", { class: "st-button st-primary", href: file.url, download: file.name }, "Download"), keep));
    }
    const errorOf = (facts) => (typeof facts.max_error === "number" ? `Largest error of a layer: ${(facts.max_error * 100).toFixed(2)}%.` : "");

    const convertSheet = () => {
      const to = choose([["kohya", "kohya: A1111, Forge, ComfyUI, most programs"], ["diffusers", "diffusers"], ["lycoris", "LyCORIS"]], "kohya");
      return sheet("Convert", h("div", { class: "st-t-fields" }, field("Format", to, "What a format can’t say is told, never dropped.")), "Convert", async (result) =>
        made(await ask("tools_convert", { file: state.open.file, to: to.value }), "Converting", result, () => "The same adapter in another dialect."));
    };
    const limits = () => {
      const how = choose([["rank", "At most so many ranks"], ["energy", "Keep a share of each layer"]], "rank");
      const value = text("16");
      how.addEventListener("change", () => (value.value = how.value === "rank" ? "16" : "0.98"));
      const dtype = choose([["fp16", "fp16"], ["bf16", "bf16"], ["fp32", "fp32"]], "fp16");
      return { nodes: [field("How", how), field("Value", value), field("Numbers", dtype)], read: () => ({ [how.value]: value.value, dtype: dtype.value }) };
    };
    const resizeSheet = () => {
      const limit = limits();
      return sheet("Resize", h("div", { class: "st-t-fields" }, limit.nodes), "Resize", async (result) =>
        made(await ask("tools_resize", { file: state.open.file, ...limit.read() }), "Resizing", result, errorOf));
    };
    function extractSheet() {
      const tuned = text("", { placeholder: "/models/my-tuned-model" }), base = text("", { placeholder: "/models/its-base" });
      const limit = limits();
      return sheet("Extract a LoRA from two models",
        h("div", { class: "st-t-fields" }, field("Tuned model", tuned, "A folder or a .safetensors file on this computer."), field("Its base", base), limit.nodes), "Extract", async (result) =>
          made(await ask("tools_extract", { tuned: tuned.value, base: base.value, ...limit.read() }), "Extracting", result, errorOf));
    }
    const cleanSheet = () => {
      const gone = state.open.private;
      const list = h("p", {}, gone.length ? `These entries tell of you or your training and are left out: ${gone.join(", ")}.` : "No entry tells more than others need to use the file.");
      return sheet("Clean before sharing", h("div", {}, list, h("p", { class: "st-muted" }, "Title, trigger words, architecture, rank, licence and the thumbnail stay, and so do the pictures it makes.")), "Write a clean copy", async (result) =>
        made(await ask("tools_clean", { file: state.open.file }), "Cleaning", result, (facts) => `${number(facts.removed.length)} entries left out, ${number(facts.kept.length)} kept.`));
    };
    const editSheet = () => {
      const known = ["modelspec.title", "modelspec.trigger_phrase", "modelspec.usage_hint", "modelspec.author", "modelspec.license", "modelspec.description"];
      const before = state.facts.metadata || {};
      const rows = h("div", { class: "st-t-rows" });
      const addRow = (key, value, fixed) => {
        const name = text(key, fixed ? { readonly: true, "aria-label": `Key ${key}` } : { "aria-label": "Key", placeholder: "key" });
        const content = text(value, { "aria-label": `Text of ${key || "the new entry"}` });
        const row = h("div", { class: "st-t-row" }, name, content, button("Remove", () => row.remove(), { class: "st-button st-t-small", "aria-label": `Remove ${key || "the new entry"}` }));
        row.read = () => [name.value.trim(), content.value];
        rows.append(row);
      };
      for (const key of known) addRow(key, before[key] || "", true);
      for (const key of Object.keys(before)) if (!known.includes(key) && before[key].length <= 400) addRow(key, before[key], true);
      return sheet("Edit metadata", h("div", {}, rows, h("div", { class: "st-buttons" }, button("Add an entry", () => addRow("", "", false), { class: "st-button st-t-small" }))), "Write a copy", async (result) => {
        const now = Object.fromEntries([...rows.children].map((row) => row.read()).filter(([key]) => key));
        const set = Object.fromEntries(Object.entries(now).filter(([key, value]) => value !== (before[key] || "") && value !== ""));
        const shown = [...known, ...Object.keys(before).filter((key) => before[key].length <= 400)];
        const remove = [...new Set(shown)].filter((key) => key in before && !(now[key] || "").length);
        await made(await ask("tools_relabel", { file: state.open.file, set, remove }), "Writing", result, (facts) => `${number(facts.set.length)} set, ${number(facts.removed.length)} removed.`);
      });
    };

    async function verify() {
      const told = await finished(await ask("tools_verify", { file: state.open.file }), "Asking every reader");
      if (!told) return;
      const { consumers, portable } = told.result;
      show(h("section", { class: "st-card st-t-form", "aria-label": "Who reads it" },
        h("h2", {}, "Who reads it"),
        h("p", { class: `st-note st-${portable ? "good" : "bad"}` }, portable ? "Every program reads every layer." : "Not every program reads all of it."),
        h("table", { class: "st-t-table" }, h("tbody", {}, Object.entries(consumers || {}).map(([name, each]) =>
          h("tr", {}, h("th", { scope: "row" }, Studio.readers[name] || name),
            h("td", {}, h("span", { class: each.reads ? "st-yes" : "st-no", "aria-hidden": "true" }, each.reads ? "✓ " : "✗ "), each.total ? `${number(each.consumed)} of ${number(each.total)}` : "–"),
            h("td", { class: "st-muted" }, each.reads ? "reads it right" : Studio.whyUnread(each))))))));
    }

    root.addEventListener("dragover", (event) => {
      event.preventDefault();
      root.classList.add("st-dropping");
    });
    root.addEventListener("dragleave", (event) => !root.contains(event.relatedTarget) && root.classList.remove("st-dropping"));
    root.addEventListener("drop", (event) => {
      event.preventDefault();
      root.classList.remove("st-dropping");
      if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
    });
  };

  // ---- Settings ----
  const THEMES = [["", "As the system"], ["light", "Light"], ["dark", "Dark"]];

  Studio.mountSettings = async (element, server) => {
    const root = element.querySelector(".st-settings");
    const ask = asker(server);
    const folders = h("dl", { class: "st-t-facts" });
    const machine = h("dl", { class: "st-t-facts" }, h("p", { class: "st-muted" }, "Looking at this machine …"));
    const defaults = h("div", {});
    const themes = h("div", { class: "st-t-segments", role: "group", "aria-label": "Theme" }, THEMES.map(([key, label]) =>
      button(label, () => Studio.chooseTheme(key), { "data-theme": key })));
    const mark = () => {
      const chosen = localStorage.getItem("studio-theme") || "";
      for (const each of themes.children) each.setAttribute("aria-pressed", String(each.dataset.theme === chosen));
    };
    window.addEventListener("studio-theme", mark);
    mark();
    const card = (title, ...body) => h("section", { class: "st-card" }, h("h2", {}, title), ...body);
    root.replaceChildren(
      card("Does anything leave this computer? No.", h("p", { class: "st-muted" }, "Pictures, captions, prompts and adapters stay here; the studio reports nothing to anyone and asks no other computer. Only a base model that you name by its hub id is fetched once, by the training itself.")),
      card("Theme", themes),
      card("Folders", folders, h("p", { class: "st-muted" }, "Set when the studio is started: python app.py --runs DIR --adapters DIR --models DIR.")),
      card("New runs begin with", defaults, h("p", { class: "st-muted" }, "Train lays these over every preset. They are kept in this browser; runs that exist stay as they are.")),
      card("This machine", machine));
    const told = await ask("settings_show");
    if (told.error) return folders.replaceChildren(h("p", { class: "st-bad", role: "alert" }, told.error));
    defaults.replaceChildren(Studio.defaultFields(told.defaults));
    folders.replaceChildren(...told.folders.map((each) => h("div", {}, h("dt", {}, each.label), h("dd", {}, each.path, each.free ? h("span", { class: "st-muted" }, ` · ${each.free} free`) : null))));
    for (;;) {
      const task = await ask("tools_task", { task: told.task });
      if (task.state === "running") {
        await new Promise((done) => setTimeout(done, 400));
        continue;
      }
      const found = (task.result && task.result.findings) || [];
      machine.replaceChildren(...(found.length ? found.map((each) => h("div", { class: `st-is-${each.severity}` }, h("dt", {}, each.name), h("dd", {}, each.value, each.fix ? h("span", { class: "st-muted" }, ` ${each.fix}`) : null)))
        : [h("p", { class: "st-bad" }, task.error || "The machine could not be looked at. Reload the page.")]));
      return;
    }
  };
})();
