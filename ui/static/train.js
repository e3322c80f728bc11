// The Train tab: one set of values, shown as the short form or as everything; checked as it changes.
"use strict";
(() => {
  const { h, setText } = window.Studio;
  const CHECK_AFTER_MS = 250;

  // Gradio makes a tab's content when it is first opened; what other tabs ask for waits until then.
  let isMounted;
  const mounted = new Promise((done) => (isMounted = done));
  const onForm = async (use) => {
    window.Studio.openTab("train");
    use(await mounted);
  };
  // Settings of a run, for a new one, or (`edit`) to change a waiting one; `changes` on top.
  window.Studio.trainLike = (run, edit, changes) => onForm((form) => form.like(run, edit, changes));
  window.Studio.trainOnOwn = () => onForm((form) => form.onOwn());
  window.Studio.trainOn = (folder) => onForm((form) => form.on(folder));

  window.Studio.mountTrain = async (element, server) => {
    const root = element.querySelector(".st-train");
    const state = { values: {}, loaded: {}, preset: "", edit: null, whole: false, problems: {}, waits: false, checks: 0 };
    const said = h("div", { class: "st-said", role: "status" });
    const alert = h("p", { class: "st-note st-bad", role: "alert", hidden: true });
    let fields = [];
    const schema = await ask("studio_form", {});
    if (!schema) return;
    const byName = new Map(schema.fields.map((field) => [field.name, field]));

    async function ask(name, request) {
      let answer;
      try {
        answer = await server[name](request);
      } catch {
        answer = undefined;
      }
      if (!answer || typeof answer !== "object") answer = { error: "The studio gave no answer. Try again in a moment." };
      alert.hidden = !answer.error;
      setText(alert, answer.error || "");
      return answer.error ? null : answer;
    }

    // ---- values ----
    function take(values, preset) {
      state.values = { ...values };
      state.loaded = { ...values };
      if (preset !== undefined) {
        state.preset = preset;
        teaching.show(preset);
      }
      showValues();
      check();
    }

    function showValues() {
      for (const field of fields) field.text = state.values[field.field.name] ?? "";
      for (const button of folderChips.children) {
        button.setAttribute("aria-pressed", String(button.dataset.folder === state.values["data.folder"]));
      }
    }

    function change(name, text, also) {
      state.values[name] = text;
      if (also) state.values[also] = text === "0" ? "" : text;
      if (/\.kind$/.test(name) || name === "optim.lr_schedule") return void afresh(name);
      if (!state.whole) follow(name, text);
      showValues();
      setText(said, "");
      check();
    }

    // In the short form, settings that belong to a visible one keep their proportion to it.
    function follow(name, text) {
      const keep = (other) => {
        const before = Number(state.loaded[name]), was = Number(state.loaded[other]), now = Number(text);
        if (state.loaded[other] && before > 0 && Number.isFinite(now / before)) {
          state.values[other] = String(Number((was * now / before).toPrecision(6)));
        }
      };
      if (name === "adapter.rank") keep("adapter.alpha");
      if (name === "optim.lr_unet") keep("optim.lr_text");
      if (name === "data.folder") nameAfter(text);
      if (name === "model.base") teaching.followBase(() => state.values["model.base"]);
      if (name === "schedule.steps" && text.trim()) state.values["schedule.epochs"] = "";
      // A demo preset speaks of the demo's creature; other pictures have no part in that.
      if (name === "data.folder" && state.loaded[name].startsWith("bundled:") && text !== state.loaded[name]) {
        for (const own of ["data.class_prompts", "preview.prompts"]) {
          if (state.values[own] === state.loaded[own]) state.values[own] = "";
        }
        if (!state.values["data.class_prompts"]) state.values["data.class_pictures"] = "0";
      }
    }

    const isOwn = (name) => !state.preset || state.values[name] !== state.loaded[name];

    // A name of one's own stays; until there is one, the pictures' folder gives it.
    function nameAfter(folder) {
      const last = window.Studio.nameFrom(folder);
      if (last && !isOwn("save.name")) state.values["save.name"] = state.loaded["save.name"] = last;
    }

    // What Settings has new runs begin with, over a preset's own.
    const begun = (values) => ({ ...values, ...window.Studio.defaults() });

    // Another preset, under what one has typed oneself; a base only as long as it suits the preset.
    async function usePreset(preset) {
      const typed = ["data.folder", "save.name", "data.trigger", "model.base"].filter(isOwn);
      const kept = Object.fromEntries(typed.map((name) => [name, state.values[name]]));
      if ("model.base" in kept && !(await teaching.suits(preset, kept["model.base"]))) delete kept["model.base"];
      if (!(await load({ preset }, preset))) return;
      Object.assign(state.values, kept);
      if (kept["data.folder"]) nameAfter(kept["data.folder"]);
      showValues();
      check();
    }

    // The base that was trained on last, with what was being taught then; the pictures are chosen anew.
    async function beginWithLastBase() {
      const { preset, base } = window.Studio.lastBase();
      if (!base || base === state.values["model.base"] || !schema.teaching.presets.includes(preset)) return;
      if (!(await load({ preset }, preset))) return;
      state.values["model.base"] = base;
      showValues();
      check();
    }

    async function afresh(name) {
      const answer = await ask("studio_afresh", { values: state.values, name });
      if (answer) Object.assign(state.values, answer.values);
      showValues();
      check();
    }

    let timer = 0;
    function check() {
      clearTimeout(timer);
      timer = setTimeout(checkNow, CHECK_AFTER_MS);
    }

    async function checkNow() {
      const number = (state.checks += 1);
      const answer = await ask("studio_check", { values: state.values });
      if (!answer || number !== state.checks) return;
      state.waits = answer.waits;
      tell(answer.problems);
      showEstimate(answer);
      showPictures(answer.pictures);
    }

    function tell(problems) {
      state.problems = problems;
      const hidden = Object.keys(problems).filter((name) => !fields.some((field) => field.field.name === name));
      for (const field of fields) field.tell(problems[field.field.name]);
      elsewhere.hidden = !hidden.length;
      if (hidden.length) setText(elsewhere, `${hidden[0]}: ${problems[hidden[0]]}`);
    }

    // ---- the two forms ----
    const teaching = new window.Studio.Teaching(schema.teaching, async (base) => (await ask("studio_family", { base }))?.family, usePreset);
    const folderChips = h("div", { class: "st-chips" }, schema.folders.map(([label, folder]) =>
      h("button", { class: "st-chip", type: "button", "data-folder": folder, onclick: () => change("data.folder", folder) }, label)));
    const elsewhere = h("p", { class: "st-note st-bad", role: "alert", hidden: true });
    const lists = [
      h("datalist", { id: "st-model-base-list" }, schema.bases.map(([label, where]) => h("option", { value: where }, label))),
    ];

    function simpleForm() {
      const made = new Map(schema.simple.map((simple) => [simple.name, new window.Studio.Field(byName.get(simple.name), {
        id: `st-${simple.name.replace(".", "-")}`, label: simple.label, help: simple.help,
        suggestions: simple.name === "model.base", tall: 4,
      }, (text) => change(simple.name, text, simple.also))]));
      fields = [...made.values()];
      made.get("data.folder").input.placeholder = "/home/me/pictures/my-cat";
      made.get("data.folder").node.insertBefore(folderChips, made.get("data.folder").input);
      const rows = (...names) => h("div", { class: "st-fields" }, names.map((name) => made.get(name).node));
      return [
        made.get("data.folder").node, teaching.node, made.get("model.base").node,
        rows("save.name", "data.trigger"), rows("schedule.steps", "adapter.rank", "optim.lr_unet"),
        rows("data.resolution_px", "schedule.batch_size", "preview.every_steps"),
        made.get("preview.prompts").node,
      ];
    }

    function wholeForm() {
      fields = schema.fields.map((field) => new window.Studio.Field(field, {
        id: `st-${field.name.replace(".", "-")}`, suggestions: field.name === "model.base",
      }, (text) => change(field.name, text)));
      const sections = Object.entries(schema.sections).map(([section, title]) => {
        const own = fields.filter((field) => field.field.name.startsWith(`${section}.`));
        return h("details", { class: "st-card st-details st-section", open: true },
          h("summary", {}, title), h("div", { class: "st-fields" }, own.map((field) => {
            field.node.querySelector("label").append(h("code", {}, field.field.name));
            return field.node;
          })));
      });
      const none = h("p", { class: "st-muted", hidden: true }, "No setting is called that.");
      const search = h("input", {
        class: "st-search", type: "search", placeholder: "Search all settings", "aria-label": "Search all settings",
        oninput: () => {
          const words = search.value.trim().toLowerCase().split(/\s+/);
          let found = 0;
          for (const section of sections) {
            let here = 0;
            for (const node of section.querySelectorAll(".st-field")) {
              const text = `${node.dataset.field} ${node.textContent}`.toLowerCase();
              node.hidden = !words.every((word) => text.includes(word));
              here += node.hidden ? 0 : 1;
            }
            section.hidden = !here;
            found += here;
          }
          none.hidden = Boolean(found);
        },
      });
      return [search, none, ...sections];
    }

    function draw() {
      form.replaceChildren(...(state.whole ? wholeForm() : simpleForm()), ...lists);
      for (const button of kinds.children) button.setAttribute("aria-pressed", String((button.dataset.whole === "true") === state.whole));
      showValues();
      tell(state.problems);
    }

    // ---- what it takes, what is made ----
    const bar = h("i", {});
    const memory = h("b", {}, "…"), time = h("b", {}, "…"), clock = h("span", {});
    const note = h("p", { class: "st-muted" });
    const estimate = h("section", { class: "st-card st-estimate", "aria-label": "Estimate" },
      h("h2", {}, "What it takes"),
      h("dl", {}, h("div", {}, h("dt", {}, "Memory"), h("dd", {}, memory)), h("div", {}, h("dt", {}, "Time"), h("dd", {}, time, clock))),
      h("span", { class: "st-bar st-thin" }, bar), note, h("div", { class: "st-measure" }));
    const pictures = h("section", { class: "st-card st-dataset" });

    // ---- measuring: two steps of this very run, in a process of their own ----
    const measureBox = estimate.querySelector(".st-measure");
    const measureText = h("p", { role: "status" });
    const measureButton = h("button", { class: "st-button st-small", type: "button" }, "Measure");
    measureButton.addEventListener("click", async () => {
      if (measureButton.dataset.running) return void (await ask("studio_measure_no_more", {}));
      const answer = await ask("studio_measure", { values: state.values });
      if (answer) followMeasuring(answer);
    });
    measureBox.append(measureButton, measureText);

    async function followMeasuring(answer) {
      for (; answer && answer.state === "running"; answer = await ask("studio_measured", {})) {
        measureButton.dataset.running = "yes";
        setText(measureButton, "Cancel");
        setText(measureText, answer.text);
        await new Promise((done) => setTimeout(done, 700));
      }
      delete measureButton.dataset.running;
      setText(measureButton, "Measure");
      const whole = answer && answer.seconds ? ` All steps: about ${window.Studio.duration(answer.seconds)}.` : "";
      setText(measureText, answer ? answer.text + whole : "");
      measureText.classList.toggle("st-bad", Boolean(answer && answer.state === "failed"));
    }

    function showEstimate(answer) {
      const told = answer.memory;
      start.textContent = state.edit ? "Save changes" : state.waits ? "Add to queue" : "Start training";
      if (!told) {
        setText(memory, "–");
        setText(time, "–");
        setText(clock, "");
        setText(note, "Told once every field is right.");
        bar.style.width = "0";
        return;
      }
      setText(memory, told.text);
      bar.style.width = `${(told.share * 100).toFixed(1)}%`;
      bar.parentElement.classList.toggle("st-failed", !told.fits);
      setText(time, answer.duration.text);
      time.classList.toggle("st-unknown", answer.duration.seconds === null);
      const seconds = answer.duration.seconds;
      const end = new Date(Date.now() + seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
      setText(clock, seconds === null || state.waits || seconds > 72_000 ? "" : `, done about ${end}`);
      setText(note, [told.note, answer.duration.note].filter(Boolean).join(" "));
    }

    function showPictures(found) {
      pictures.replaceChildren(
        h("div", { class: "st-card-head" }, h("h2", {}, found.title), h("span", { class: "st-muted" }, found.shown.length ? found.text : "")),
        found.shown.length
          ? h("div", { class: "st-thumbs" }, found.shown.map((each) => h("figure", { title: each.caption },
            h("img", { src: each.url, alt: each.caption, loading: "lazy" }), h("figcaption", {}, each.caption))))
          : h("p", {}, found.text),
        ...(found.more ? [h("p", { class: "st-muted" }, `and ${window.Studio.number(found.more)} more`)] : []));
    }

    // ---- buttons ----
    async function submit() {
      start.disabled = true;
      const answer = await ask("studio_submit", { values: state.values, edit: state.edit });
      start.disabled = false;
      if (!answer) return;
      if (answer.problems) {
        tell(answer.problems);
        const first = fields.find((field) => answer.problems[field.field.name]);
        if (first) first.input.focus();
        else if (!state.whole) {
          state.whole = true; // what is wrong is not among the few
          draw();
          fields.find((field) => answer.problems[field.field.name])?.input.focus();
        }
        return;
      }
      if (state.preset && !state.edit) window.Studio.rememberBase(state.preset, state.values["model.base"]);
      state.edit = null;
      editing.hidden = true;
      window.Studio.openRun(answer.run);
      check();
    }

    async function showCommand() {
      const answer = await ask("studio_command", { values: state.values, preset: state.preset });
      if (!answer) return;
      const copy = h("button", { class: "st-button st-small", type: "button", onclick: () => window.Studio.copy(answer.text, copy) }, "Copy");
      said.replaceChildren(h("section", { class: "st-card" },
        h("div", { class: "st-card-head" }, h("h2", {}, "The same run as a command"), copy),
        h("pre", { class: "st-command", tabindex: "0" }, answer.text)));
      window.Studio.copy(answer.text, copy);
    }

    async function saveToml() {
      const answer = await ask("studio_toml", { values: state.values });
      if (!answer) return;
      const url = URL.createObjectURL(new Blob([answer.text], { type: "application/toml" }));
      const link = h("a", { href: url, download: answer.name });
      link.click();
      setTimeout(() => URL.revokeObjectURL(url), 10_000);
    }

    async function load(request, preset) {
      const answer = await ask("studio_load", request);
      if (!answer) return false;
      take(request.preset ? begun(answer.values) : answer.values, preset ?? "");
      said.replaceChildren(...(answer.notes && answer.notes.length
        ? [h("section", { class: "st-card" }, h("h2", {}, "Not everything could be carried over"),
          h("ul", { class: "st-notes" }, answer.notes.map((text) => h("li", {}, text))))]
        : []));
      return true;
    }

    const file = h("input", { type: "file", accept: ".toml,.json,.safetensors", hidden: true, "aria-label": "Settings file" });
    file.addEventListener("change", async () => {
      const chosen = file.files[0];
      file.value = "";
      if (!chosen) return;
      try {
        await load({ upload: await window.Studio.upload(chosen) });
      } catch (error) {
        alert.hidden = false;
        setText(alert, error.message);
      }
    });
    const button = (label, run, kind = "") => h("button", { class: `st-button ${kind}`, type: "button", onclick: run }, label);
    const start = button("Start training", submit, "st-primary st-wide");
    start.id = "st-start";
    const editing = h("p", { class: "st-note", hidden: true });
    const side = h("div", { class: "st-side" }, editing, estimate,
      h("div", { class: "st-actions" }, start,
        button("Copy command", showCommand), button("Save TOML", saveToml),
        h("button", { class: "st-button", type: "button", title: "A TOML, a kohya .json or an adapter's .safetensors", onclick: () => file.click() }, "Load settings"), file),
      alert, elsewhere, said, pictures);
    const kinds = h("div", { class: "st-segments", role: "group", "aria-label": "How much to show" },
      [["Simple", false], ["Everything", true]].map(([label, whole]) => h("button", {
        type: "button", "data-whole": String(whole), onclick: () => { state.whole = whole; draw(); },
      }, label)));
    const form = h("form", { class: "st-form", onsubmit: (event) => { event.preventDefault(); submit(); } });
    root.replaceChildren(h("div", { class: "st-main" }, kinds, form), side);
    draw();
    take(begun(schema.values), schema.preset);
    await beginWithLastBase();
    const folder = window.Studio.dataset && window.Studio.dataset.folder;
    if (folder) change("data.folder", folder);

    // ---- what other tabs ask for ----
    async function like(run, edit, changes = {}) {
      if (!(await load({ run }))) return;
      Object.assign(state.values, changes);
      showValues();
      state.edit = edit ? run : null;
      editing.hidden = !edit;
      editing.replaceChildren("You are changing the waiting run ", h("b", {}, run), ". ",
        h("button", { class: "st-link", type: "button", onclick: () => { state.edit = null; editing.hidden = true; check(); } }, "Start a new one instead"));
    }

    function onOwn() {
      if (state.values["data.folder"].startsWith("bundled:")) change("data.folder", "");
      fields.find((field) => field.field.name === "data.folder")?.input.focus();
    }

    isMounted({ like, onOwn, on: (folder) => change("data.folder", folder) });
    // A run that starts or ends elsewhere changes what the button says.
    new MutationObserver(() => root.offsetParent && check()).observe(document.querySelector("#st-tabs"), { attributeFilter: ["aria-selected"], subtree: true });
  };
})();
