// Sheets of the Dataset tab: open, find and replace, caption, sizes, tags, a mended copy.
"use strict";
(() => {
  const { h, setText, number } = window.Studio;
  const RECENT = "studio-dataset-folders";

  const field = (label, control, help) => {
    const id = `st-f-${label.toLowerCase().replace(/[^a-z]+/g, "-")}`;
    control.id = id;
    return h("div", { class: "st-d-field" }, h("label", { for: id }, label), control, help ? h("small", { class: "st-muted" }, help) : null);
  };
  const check = (label, checked, onchange) => {
    const box = h("input", { type: "checkbox", onchange });
    box.checked = checked;
    return { box, node: h("label", { class: "st-d-check" }, box, label) };
  };
  const select = (options, value, onchange) => {
    const node = h("select", { onchange }, options.map(([key, text]) => h("option", { value: key }, text)));
    node.value = value;
    return node;
  };
  const sheet = (title, close, ...body) =>
    h("section", { class: "st-card st-d-sheet", "aria-label": title },
      h("div", { class: "st-card-head" }, h("h2", {}, title),
        h("button", { class: "st-button st-small st-close", type: "button", onclick: close }, "Close")),
      ...body);
  const counted = (n, one) => `${number(n)} ${n === 1 ? one : `${one}s`}`;

  const recent = () => {
    try {
      const kept = JSON.parse(localStorage.getItem(RECENT) || "[]");
      return Array.isArray(kept) ? kept.filter((each) => typeof each === "string").slice(0, 5) : [];
    } catch {
      return [];
    }
  };
  const remember = (folder) =>
    localStorage.setItem(RECENT, JSON.stringify([folder, ...recent().filter((each) => each !== folder)].slice(0, 5)));

  // ---- open a folder ----
  const openBox = (tab, main) => {
    const path = h("input", { type: "text", placeholder: "/home/me/pictures/my-cat", autocomplete: "off", spellcheck: "false" });
    const go = h("button", { class: main ? "st-button st-primary" : "st-button", type: "submit" }, "Open folder");
    const form = h("form", { class: "st-d-open", onsubmit: (event) => { event.preventDefault(); tab.open({ folder: path.value }); } },
      field("Folder on this computer", path), go);
    const list = recent();
    return h("div", { class: "st-open-box" }, form,
      list.length ? h("div", { class: "st-recent" }, h("span", { class: "st-muted" }, "Opened before"),
        list.map((folder) => h("button", { class: "st-d-link", type: "button", title: folder, onclick: () => tab.open({ folder }) }, folder.split("/").filter(Boolean).pop() || folder))) : null);
  };

  // ---- find and replace ----
  const KINDS = [["replace", "Replace"], ["prefix", "Put before"], ["suffix", "Put after"], ["drop-repeats", "Drop repeated tags"]];

  const marked = (before, after) => {
    let start = 0, end = 0;
    while (start < Math.min(before.length, after.length) && before[start] === after[start]) start += 1;
    while (end < Math.min(before.length, after.length) - start && before[before.length - 1 - end] === after[after.length - 1 - end]) end += 1;
    const cut = (text) => [text.slice(0, start), text.slice(start, text.length - end), text.slice(text.length - end)];
    const [a, gone, z] = cut(before);
    return [a, gone ? h("del", {}, gone) : null, cut(after)[1] ? h("ins", {}, cut(after)[1]) : null, z];
  };

  const replaceSheet = (tab) => {
    const kind = select(KINDS, "replace", () => later());
    const find = h("input", { type: "text", spellcheck: "false", autocomplete: "off", oninput: () => later() });
    const text = h("input", { type: "text", spellcheck: "false", autocomplete: "off", oninput: () => later() });
    const pattern = check("Pattern", false, () => later());
    const matchCase = check("Match case", false, () => later());
    const words = check("Whole words", false, () => later());
    const shownOnly = check("Only the pictures shown", false, () => later());
    const told = h("p", { class: "st-muted", role: "status" });
    const changes = h("ul", { class: "st-changes" });
    const apply = h("button", { class: "st-button st-primary", type: "button", disabled: true, onclick: () => make() }, "Apply");
    const findField = field("Find", find), textField = field("Replace with", text);
    const options = h("div", { class: "st-checks" }, pattern.node, matchCase.node, words.node, shownOnly.node);
    let timer = 0, digest = "", round = 0;
    const edit = () => ({
      kind: kind.value, find: find.value, text: text.value,
      is_pattern: pattern.box.checked, match_case: matchCase.box.checked, whole_words: words.box.checked,
    });
    const request = () => ({ edit: edit(), filter: shownOnly.box.checked ? tab.filter : {} });
    const ready = () => (kind.value === "drop-repeats" ? true : kind.value === "replace" ? find.value : text.value);
    const later = () => {
      findField.hidden = kind.value !== "replace";
      textField.hidden = kind.value === "drop-repeats";
      setText(textField.querySelector("label"), kind.value === "replace" ? "Replace with" : "Text");
      for (const each of [pattern, matchCase, words]) each.node.hidden = kind.value !== "replace";
      digest = "";
      apply.disabled = true;
      clearTimeout(timer);
      timer = setTimeout(look, 250);
    };
    const look = async () => {
      round += 1;
      const own = round;
      if (!ready()) return void show({ captions: 0, places: 0, changes: [] }, " ");
      const answer = await tab.askQuietly("edit", request());
      if (own !== round) return;
      if (answer.error) show({ captions: 0, places: 0, changes: [] }, answer.error);
      else show(answer);
    };
    const show = (answer, instead) => {
      digest = answer.digest || "";
      apply.disabled = !answer.captions;
      setText(apply, answer.captions ? `Apply to ${counted(answer.captions, "caption")}` : "Apply");
      const more = answer.captions - answer.changes.length;
      setText(told, instead || (answer.captions
        ? `${counted(answer.captions, "caption")} would change, in ${counted(answer.places, "place")}${more > 0 ? `; the first ${answer.changes.length}` : ""}.`
        : "No caption would change.") + (answer.left_out ? ` ${counted(answer.left_out, "caption")} can’t be read and stay${answer.left_out === 1 ? "s" : ""} as ${answer.left_out === 1 ? "it is" : "they are"}.` : ""));
      told.classList.toggle("st-bad", Boolean(instead && instead.trim()));
      changes.replaceChildren(...answer.changes.map((each) =>
        h("li", {}, h("span", { class: "st-muted" }, each.name), h("span", {}, ...marked(each.before.trimEnd(), each.after.trimEnd()).filter((part) => part !== null)))));
    };
    const make = async () => {
      const answer = await tab.ask("edit_apply", { ...request(), digest });
      if (!answer) return void look();
      await tab.changed(answer);
      tab.say("good", `Changed ${counted(answer.changed, "caption")}.`, "Undo", () => tab.undo());
      look();
    };
    later();
    setTimeout(() => find.focus(), 0);
    return sheet("Find and replace", () => tab.closeSheet(),
      h("div", { class: "st-fields" }, field("Change", kind), findField, textField), options, told, changes,
      h("div", { class: "st-buttons" }, apply));
  };

  // ---- captioners ----
  const setting = (name, schema) => {
    const options = schema.enum || (schema.anyOf || []).flatMap((each) => each.enum || []);
    const type = schema.type || ((schema.anyOf || []).find((each) => each.type !== "null") || {}).type;
    const label = name.replaceAll("_", " ").replace(/^./, (c) => c.toUpperCase());
    let control, read;
    if (options.length) {
      control = select(options.map((each) => [String(each), String(each)]), String(schema.default ?? options[0]));
      read = () => control.value;
    } else if (type === "boolean") {
      const made = check(label, Boolean(schema.default));
      return { name, node: h("div", { class: "st-d-field" }, made.node, h("small", { class: "st-muted" }, schema.description || "")), read: () => made.box.checked };
    } else {
      const shown = Array.isArray(schema.default) ? schema.default.join(", ") : schema.default ?? "";
      control = h("input", { type: "text", value: String(shown), spellcheck: "false", autocomplete: "off" });
      read = () => (control.value === String(shown) ? null : control.value);
    }
    return { name, node: field(label, control, schema.description), read };
  };

  const captionSheet = (tab) => {
    const body = h("div", { class: "st-caption-sheet" }, h("p", { class: "st-muted" }, "Looking for captioners …"));
    const begin = async () => {
      if (!tab.captioners) {
        const task = await tab.ask("captioners", {});
        const told = task && (await tab.finished(task.task));
        if (!told) return;
        tab.captioners = told.result.captioners || [];
      }
      const list = tab.captioners;
      const choose = select(list.map((each) => [each.name, `${each.name}: ${each.summary || each.error}`]), tab.captioner || "template", () => draw());
      const which = select([["missing", "Pictures without a caption"], ["all", "All pictures; present captions stay until you keep a draft"]], tab.which || (tab.summary.captioned < tab.summary.total ? "missing" : "all"));
      const trigger = h("input", { type: "text", value: tab.trigger || "", autocomplete: "off", spellcheck: "false" });
      const own = h("div", { class: "st-fields" });
      const problem = h("p", { class: "st-bad", role: "alert", hidden: true });
      const start = h("button", { class: "st-button st-primary", type: "button", onclick: () => go() }, "Caption");
      let settings = [];
      const draw = () => {
        const chosen = list.find((each) => each.name === choose.value);
        start.disabled = !chosen || Boolean(chosen.error);
        settings = chosen && chosen.settings ? Object.entries(chosen.settings.properties || {}).map(([name, schema]) => setting(name, schema)) : [];
        own.replaceChildren(...settings.map((each) => each.node));
      };
      const go = async () => {
        tab.captioner = choose.value;
        tab.trigger = trigger.value;
        tab.which = which.value;
        const request = {
          captioner: choose.value, which: which.value, trigger: trigger.value,
          settings: Object.fromEntries(settings.map((each) => [each.name, each.read()]).filter((pair) => pair[1] !== null)),
        };
        const answer = await tab.askQuietly("caption", request);
        problem.hidden = !answer.error;
        setText(problem, answer.error || "");
        if (answer.error) return;
        tab.closeSheet();
        await tab.changed(answer);
      };
      draw();
      body.replaceChildren(
        h("div", { class: "st-fields" }, field("Captioner", choose), field("Which pictures", which),
          field("Trigger word", trigger, "Put before captions that lack it.")),
        own, problem,
        h("div", { class: "st-buttons" }, start),
        h("p", { class: "st-muted" }, "It works in a process of its own. What it writes waits as drafts; no caption is replaced before you keep one."));
    };
    begin();
    return sheet("Caption pictures", () => tab.closeSheet(), body);
  };

  // ---- sizes ----
  const SIDES = [64, 128, 256, 512, 768, 1024].map((side) => [String(side), `${side} px`]);
  const sizesSheet = (tab) => {
    const rows = h("div", { class: "st-buckets" });
    const told = h("p", { class: "st-muted", role: "status" }, "…");
    const side = select(SIDES, String(tab.summary.side_px), () => look(true));
    const look = async (change) => {
      const answer = await tab.ask("buckets", change ? { side_px: Number(side.value) } : {});
      if (!answer) return;
      const most = Math.max(1, ...answer.buckets.map((each) => each.pictures));
      const longest = Math.max(1, ...answer.buckets.map((each) => Math.max(each.width, each.height)));
      rows.replaceChildren(...answer.buckets.map((each) =>
        h("div", { class: "st-bucket" },
          h("span", { class: "st-shape", "aria-hidden": "true" }, h("i", { style: `width:${(each.width / longest) * 30}px;height:${(each.height / longest) * 30}px` })),
          h("span", {}, `${each.width} × ${each.height}`),
          h("span", { class: "st-bar" }, h("i", { style: `width:${(each.pictures / most) * 100}%` })),
          h("span", {}, counted(each.pictures, "picture")),
          h("span", { class: "st-muted" }, each.crop_loss < 0.005 ? "nothing cropped" : `${Math.round(each.crop_loss * 100)}% cropped`))));
      const parts = [`${counted(answer.buckets.length, "size")}, ${answer.crop_loss < 0.005 ? "next to nothing" : `${(answer.crop_loss * 100).toFixed(1)}%`} cropped on average`];
      if (answer.too_small) parts.push(`${counted(answer.too_small, "picture")} too small`);
      if (answer.unknown) parts.push(`${counted(answer.unknown, "picture")} not looked at yet`);
      setText(told, `${parts.join(" · ")}.`);
      if (change) await tab.refresh();
    };
    look(false);
    return sheet("Training sizes", () => tab.closeSheet(),
      h("div", { class: "st-fields" }, field("Picture size", side, "What the training will be set to; findings follow it.")), told, rows);
  };

  // ---- a mended copy ----
  const copySheet = (tab) => {
    const path = h("input", { type: "text", value: `${tab.summary.folder}-mended`, autocomplete: "off", spellcheck: "false" });
    const told = h("div", { role: "status" });
    const go = async () => {
      const begun = await tab.askQuietly("copy", { folder: path.value });
      if (begun.error) return void told.replaceChildren(h("p", { class: "st-bad" }, begun.error));
      told.replaceChildren(h("p", { class: "st-muted" }, "Writing …"));
      const done = await tab.finished(begun.task, true);
      const lines = done.result.fixes;
      if (!lines) return void told.replaceChildren(h("p", { class: "st-bad" }, done.error));
      told.replaceChildren(
        h("p", {}, lines.map((line, i) => [i ? "; " : "", line.trim().split("/").pop()]).flat().join("")),
        h("button", { class: "st-button st-small", type: "button", onclick: () => tab.open({ folder: path.value }) }, "Open the copy"));
    };
    return sheet("A mended copy", () => tab.closeSheet(),
      h("p", { class: "st-muted" }, "Unreadable pictures and second copies are left out, pictures are turned upright and saved as plain RGB, captions become UTF-8. This folder stays as it is."),
      h("div", { class: "st-fields" }, field("New folder", path)),
      h("div", { class: "st-buttons" }, h("button", { class: "st-button st-primary", type: "button", onclick: go }, "Write the copy")), told);
  };

  window.Studio.datasetSheets = { openBox, remember, recent, replaceSheet, captionSheet, sizesSheet, copySheet };
})();
