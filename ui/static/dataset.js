// The Dataset tab: a folder of pictures, what is wrong with it, and everything done to it.
"use strict";
(() => {
  const Studio = window.Studio;
  const { h, setText, number } = Studio;
  const POLL_MS = 1000, AT_ONCE = 3, MOST_FILES = 5000;
  const TAKEN = /\.(png|jpe?g|jpe|jfif|webp|bmp|gif|tiff?|avif|txt|caption|zip)$|(^|\/)metadata\.jsonl$/i;
  const counted = (n, one) => `${number(n)} ${n === 1 ? one : `${one}s`}`;
  const button = (text, onclick, props = {}) => h("button", { class: "st-button", type: "button", onclick, ...props }, text);

  Studio.mountDataset = (element, server) => {
    const root = element.querySelector(".st-data");
    const sheets = Studio.datasetSheets;
    let poll = 0, uploads = null;

    const tab = {
      summary: null, filter: {}, captioners: null,

      // An answer without an error, or nothing: the error is told on the page.
      async ask(question, request) {
        const answer = await tab.askQuietly(question, request);
        if (!answer.error) return answer;
        tab.say("bad", answer.error);
        return null;
      },
      async askQuietly(question, request = {}) {
        const data = tab.summary ? tab.summary.data : undefined;
        const answer = await server[`dataset_${question}`]({ data, ...request }).catch(() => undefined);
        return answer || { error: "The studio did not answer. Try again in a moment." };
      },
      // The end of a task; quietly leaves it to the caller to tell an error.
      async finished(task, quietly) {
        for (;;) {
          const told = await tab.askQuietly("task", { task });
          if (told.error && !told.state) return tab.say("bad", told.error), null;
          if (told.state !== "running") {
            if (told.state === "failed" && !quietly) return tab.say("bad", told.error), null;
            return told;
          }
          await new Promise((done) => setTimeout(done, 300));
        }
      },

      async open(request) {
        const answer = await tab.askQuietly("open", request);
        if (answer.error) return tab.say("bad", answer.error);
        if (!request.demo) sheets.remember(answer.folder);
        await tab.enter(answer);
      },
      async enter(answer) {
        tab.hush();
        tab.closeSheet();
        tab.filter = {};
        parts.search.value = "";
        side.clear();
        take(answer);
        showStage();
        await gallery.reload(true);
        const first = gallery.item(0);
        if (first) await pick(first, 0);
      },

      // After a change: the numbers, the cards and the picture that is shown.
      async changed(answer, id) {
        take(answer);
        const shown = id === undefined ? side.shown && side.shown.id : id;
        const at = tab.index;
        await gallery.reload(false);
        if (shown) {
          const found = await side.show(shown);
          if (found) return void settle(found);
        }
        const next = await gallery.itemAt(Math.min(at || 0, gallery.total - 1));
        if (next) await pick(next, Math.min(at || 0, gallery.total - 1));
        else side.clear();
      },
      async refresh() {
        const answer = await tab.ask("summary", {});
        if (answer) await tab.changed(answer);
      },
      async undo() {
        await side.keepTyped();
        const answer = await tab.ask("undo", {});
        if (!answer) return;
        await tab.changed(answer);
        tab.say("good", `Undone: ${answer.undone}.`);
      },

      say(kind, text, action, does) {
        parts.note.hidden = false;
        parts.note.className = `st-note st-${kind}`;
        parts.note.setAttribute("role", kind === "bad" ? "alert" : "status");
        parts.note.replaceChildren(h("span", {}, text),
          ...(action ? [button(action, () => { tab.hush(); does(); }, { class: "st-button st-small" })] : []),
          button("Dismiss", () => tab.hush(), { class: "st-d-link" }));
      },
      hush() {
        parts.note.hidden = true;
      },
      openSheet(make, name) {
        const same = parts.sheet.dataset.shown === name;
        tab.closeSheet();
        if (same) return;
        parts.sheet.dataset.shown = name;
        parts.sheet.replaceChildren(make(tab));
      },
      closeSheet() {
        parts.sheet.replaceChildren();
        parts.sheet.dataset.shown = "";
      },
    };

    // ---- what the page is made of ----
    const gallery = new Studio.Gallery(
      (first) => tab.ask("page", { filter: tab.filter, first }),
      (item, index) => pick(item, index));
    const side = new Studio.DatasetSide((question, request) => tab.ask(question, { filter: tab.filter, ...request }), (answer, id) => tab.changed(answer, id));
    const parts = {
      title: h("h1", {}), sub: h("p", { class: "st-sub" }),
      note: h("p", { class: "st-note", hidden: true }),
      busy: h("div", { class: "st-busy", hidden: true }),
      strip: h("div", { class: "st-strip-findings", role: "group", "aria-label": "What was found" }),
      sheet: h("div", { class: "st-sheet-place" }),
      search: h("input", { type: "search", class: "st-search", placeholder: "Search names and captions", "aria-label": "Search names and captions", spellcheck: "false", autocomplete: "off" }),
      chips: h("span", { class: "st-chips" }),
      shown: h("span", { class: "st-muted", role: "status" }),
      tags: h("div", { class: "st-tags", role: "group", "aria-label": "Tags" }),
      files: h("input", { type: "file", multiple: true, hidden: true, "aria-label": "Pictures or zip", accept: "image/*,.txt,.caption,.zip" }),
    };
    parts.problems = h("button", { class: "st-button st-small", type: "button", "aria-pressed": "false", onclick: () => filterBy({ kind: tab.filter.kind === "problems" ? "" : "problems" }) }, "Only problems");
    parts.undo = button("Undo", () => tab.undo(), { class: "st-button st-small", hidden: true });
    parts.putBack = button("Put back", () => putBack(), { class: "st-button st-small", hidden: true });
    const head = h("div", { class: "st-head" },
      h("div", {}, parts.title, parts.sub),
      h("div", { class: "st-buttons" },
        button("Open folder", () => tab.openSheet(openSheet, "open")),
        button("Add pictures or zip", () => parts.files.click()),
        button("Caption all", () => tab.openSheet(sheets.captionSheet, "caption")),
        button("Find and replace", () => tab.openSheet(sheets.replaceSheet, "replace")),
        button("Sizes", () => tab.openSheet(sheets.sizesSheet, "sizes")),
        button("Train on this", () => train(), { class: "st-button st-primary" })));
    const bar = h("div", { class: "st-data-bar" }, parts.search, parts.problems, parts.chips, parts.shown,
      h("span", { class: "st-data-undo" }, parts.putBack, parts.undo));
    const stage = h("div", { class: "st-data-stage" }, head, parts.note, parts.busy, parts.strip, parts.sheet,
      h("div", { class: "st-data-body" },
        h("div", { class: "st-data-left" }, bar, gallery.node, parts.tags), side.node),
      parts.files);

    const emptyNote = h("div", { class: "st-empty-note" });
    const empty = h("div", { class: "st-data-empty" }, emptyNote,
      h("div", { class: "st-drop" },
        h("img", { src: "/studio/static/pictures.svg", width: "220", height: "150", alt: "" }),
        h("h1", {}, "Drop a folder of 10 to 100 pictures here"),
        h("p", {}, "Captions in .txt files beside the pictures come along; a zip works too. Nothing leaves this computer."),
        h("div", { class: "st-buttons" },
          button("Use the demo pictures", () => tab.open({ demo: true }), { class: "st-button st-primary" }),
          button("Choose files", () => parts.files.click()))),
      h("div", { class: "st-open-place" }));

    const openSheet = () => h("section", { class: "st-card st-d-sheet", "aria-label": "Open a folder" },
      h("div", { class: "st-card-head" }, h("h2", {}, "Open a folder"),
        button("Close", () => tab.closeSheet(), { class: "st-button st-small st-close" })),
      sheets.openBox(tab, true),
      h("div", { class: "st-buttons" }, button("Use the demo pictures", () => tab.open({ demo: true }), { class: "st-button st-small" }),
        button("A mended copy of this folder …", () => { tab.closeSheet(); tab.openSheet(sheets.copySheet, "copy"); }, { class: "st-button st-small" })));

    function showEmpty() {
      empty.querySelector(".st-open-place").replaceChildren(sheets.openBox(tab));
      emptyNote.replaceChildren(parts.note, parts.busy, parts.files);
      root.replaceChildren(empty);
    }
    function showStage() {
      head.after(parts.note, parts.busy);
      stage.append(parts.files);
      if (!stage.isConnected) root.replaceChildren(stage);
    }

    // ---- answers ----
    function take(answer) {
      const before = tab.summary;
      tab.summary = answer;
      setText(parts.title, answer.title);
      setText(parts.sub, answer.text);
      parts.sub.title = answer.folder;
      drawStrip(answer);
      drawBusy(answer);
      parts.undo.hidden = !answer.undo;
      setText(parts.undo, "Undo");
      parts.undo.title = answer.undo ? `Undo: ${answer.undo}` : "";
      parts.undo.setAttribute("aria-label", answer.undo ? `Undo: ${answer.undo}` : "Undo");
      parts.putBack.hidden = !answer.excluded;
      setText(parts.putBack, `Put back ${number(answer.excluded)}`);
      parts.putBack.title = "Bring back what was taken out";
      if (!before || before.version !== answer.version || before.data !== answer.data) drawTags();
      if (answer.looking || (answer.captioning && answer.captioning.state === "running")) soon();
      told(before, answer);
    }

    function told(before, answer) {
      const work = answer.captioning, was = before && before.data === answer.data ? before.captioning : null;
      if (answer.looking_error) tab.say("bad", answer.looking_error);
      if (!work || work.state === "running" || !was || was.number !== work.number || was.state !== "running") return;
      if (work.state === "failed") return tab.say("bad", work.error, "Caption all", () => tab.openSheet(sheets.captionSheet, "caption"));
      const failed = work.failed ? ` ${counted(work.failed, "picture")} could not be captioned.` : "";
      const how = work.state === "cancelled" ? "Cancelled" : "Captioned";
      tab.say("good", `${how}: ${counted(answer.drafts, "draft")} ${answer.drafts === 1 ? "waits" : "wait"} for your decision.${failed}`);
    }

    function drawStrip(answer) {
      const chips = answer.strip.map((each) => {
        const chip = h("span", { class: `st-finding st-is-${each.severity}` },
          h("button", { class: "st-d-link", type: "button", "aria-pressed": String(tab.filter.kind === each.kind), disabled: !each.shown, title: each.shown ? "Show them" : "", onclick: () => filterBy({ kind: tab.filter.kind === each.kind ? "" : each.kind }) }, each.text));
        const fix = each.fix || { "no-captions": "Caption them", "missing-caption": "Caption them", "empty-caption": "Caption them" }[each.kind];
        if (fix) chip.append(h("button", { class: "st-button st-fix", type: "button", title: `${fix}; can be undone`, "aria-label": `Fix ${each.text}: ${fix}`, onclick: () => (each.fix ? mend(each) : tab.openSheet(sheets.captionSheet, "caption")) }, "Fix"));
        return chip;
      });
      if (answer.drafts) {
        chips.unshift(h("span", { class: "st-finding st-drafts" },
          h("button", { class: "st-d-link", type: "button", "aria-pressed": String(tab.filter.kind === "drafts"), onclick: () => filterBy({ kind: tab.filter.kind === "drafts" ? "" : "drafts" }) }, counted(answer.drafts, "draft")),
          h("button", { class: "st-button st-fix", type: "button", onclick: () => drafts("keep") }, "Keep all"),
          h("button", { class: "st-button st-fix", type: "button", onclick: () => drafts("discard") }, "Discard all")));
      }
      if (answer.looked && !answer.strip.length) chips.push(h("span", { class: "st-finding st-fine" }, "Nothing to say against them"));
      parts.strip.replaceChildren(...chips);
      parts.strip.hidden = !chips.length;
    }

    function drawBusy(answer) {
      const work = answer.captioning && answer.captioning.state === "running" ? answer.captioning : null;
      if (uploads) return;
      const now = work
        ? { text: `Captioning · ${work.text}`, share: work.share, cancel: cancelCaptions }
        : answer.looking && !answer.looking.quiet ? { text: "Looking at every picture once", share: answer.looking.share, cancel: null } : null;
      showBusy(now);
    }

    function showBusy(now) {
      parts.busy.hidden = !now;
      if (!now) return parts.busy.replaceChildren();
      const known = now.share !== null && now.share !== undefined;
      parts.busy.replaceChildren(
        h("div", { class: "st-ends", role: "status" }, h("span", {}, h("span", { class: "st-dot" }), now.text),
          now.cancel ? button("Cancel", now.cancel, { class: "st-button st-small" }) : null),
        h("div", { class: `st-bar${known ? "" : " st-waiting"}`, role: "progressbar", "aria-label": now.text, "aria-valuemin": "0", "aria-valuemax": "100", ...(known ? { "aria-valuenow": String(Math.round(now.share * 100)) } : {}) },
          h("i", { style: `width:${known ? now.share * 100 : 0}%` })));
    }

    async function drawTags() {
      const answer = await tab.askQuietly("tags", { filter: { ...tab.filter, tag: "" } });
      if (answer.error) return;
      const many = answer.tags.filter((each) => each.count > 1 || answer.tags.length < 12);
      const most = Math.max(1, ...many.map((each) => each.count));
      parts.tags.hidden = !many.length;
      parts.tags.replaceChildren(...many.map((each) =>
        h("button", { class: "st-d-tag", type: "button", style: `--weight:${(each.count / most).toFixed(2)}`, "aria-pressed": String(tab.filter.tag === each.whole), onclick: () => filterBy({ tag: tab.filter.tag === each.whole ? "" : each.whole }) },
          each.tag, h("small", {}, number(each.count)))));
    }

    // ---- choosing ----
    async function filterBy(changes) {
      tab.filter = { ...tab.filter, ...changes };
      const { kind, tag } = tab.filter;
      parts.problems.setAttribute("aria-pressed", String(kind === "problems"));
      const found = tab.summary.strip.find((each) => each.kind === kind);
      const chips = [
        tag ? ["tag", `tag: ${tag}`] : null,
        kind && kind !== "problems" ? ["kind", kind === "drafts" ? "drafts" : found ? found.text : kind] : null,
      ].filter(Boolean);
      parts.chips.replaceChildren(...chips.map(([key, text]) =>
        h("button", { class: "st-chip", type: "button", title: "Show all again", "aria-label": `Remove the filter ${text}`, onclick: () => filterBy({ [key]: "" }) }, text, " ×")));
      drawStrip(tab.summary);
      await gallery.reload(true);
      const any = Object.values(tab.filter).some(Boolean);
      setText(parts.shown, any ? `${gallery.count()} of ${number(tab.summary.total)}` : "");
      gallery.sayNone(any ? "No picture fits. Take a filter away to see more." : "No pictures are left. Undo, or add some.");
      for (const each of parts.tags.children) each.setAttribute("aria-pressed", String(each.firstChild.textContent === tag));
      const first = gallery.item(0);
      if (first && !(side.shown && gallery.pages.size && [...gallery.pages.values()].flat().some((each) => each.id === side.shown.id))) await pick(first, 0);
    }

    async function pick(item, index) {
      tab.index = index;
      gallery.select(item.id);
      gallery.show(index);
      await side.show(item.id);
    }

    function settle(found) {
      if (found.place < 0) return;
      tab.index = found.place;
      gallery.select(found.id);
    }

    async function step(by) {
      const next = (tab.index ?? -1) + by;
      if (next < 0 || next >= gallery.total) return;
      gallery.show(next);
      const item = await gallery.itemAt(next);
      if (item) await pick(item, next);
    }

    // ---- doing ----
    async function mend(each) {
      const answer = await tab.ask("fix", { kind: each.kind });
      if (!answer) return;
      await tab.changed(answer);
      tab.say("good", `${answer.undo}. Nothing is lost.`, "Undo", () => tab.undo());
    }

    async function drafts(what) {
      tab.hush();
      const answer = await tab.ask(what, { all: true });
      if (!answer) return;
      if (tab.filter.kind === "drafts") tab.filter = { ...tab.filter, kind: "" };
      await filterBy({});
      await tab.changed(answer);
      if (what === "keep") tab.say("good", `${answer.undo}.`, "Undo", () => tab.undo());
    }

    async function putBack() {
      const answer = await tab.ask("put_back", {});
      if (answer) await tab.changed(answer);
    }

    async function cancelCaptions() {
      const answer = await tab.ask("caption_cancel", {});
      if (answer) take(answer);
    }

    async function train() {
      await side.keepTyped();
      Studio.trainOn(tab.summary.folder);
    }

    function soon() {
      clearTimeout(poll);
      poll = setTimeout(async () => {
        if (document.hidden || !root.isConnected) return soon();
        const before = tab.summary;
        const answer = await tab.askQuietly("summary", {});
        if (answer.error) return soon();
        const more = answer.version !== before.version || answer.drafts !== before.drafts;
        take(answer);
        if (more) {
          await gallery.reload(false);
          if (side.shown && !side.dirty && !side.mode) await side.show(side.shown.id);
        }
      }, POLL_MS);
    }

    // ---- adding ----
    async function filesOf(entry, path) {
      if (entry.isFile) {
        const file = await new Promise((done, no) => entry.file(done, no));
        return [[file, `${path}${entry.name}`]];
      }
      const reader = entry.createReader();
      const found = [];
      for (;;) {
        const some = await new Promise((done, no) => reader.readEntries(done, no));
        if (!some.length) break;
        for (const each of some) found.push(...(await filesOf(each, `${path}${entry.name}/`)));
      }
      return found;
    }

    async function add(files, name) {
      if (uploads) return tab.say("bad", "Files are on their way already. Wait for them, or cancel them.");
      const wanted = files.filter(([, path]) => TAKEN.test(path));
      if (!wanted.length) return tab.say("bad", "There was no picture and no caption in it. Add PNG, JPEG or WebP files, or a zip of them.");
      if (wanted.length > MOST_FILES) return tab.say("bad", `These are ${number(wanted.length)} files. Add at most ${number(MOST_FILES)} at a time, or give the folder's path under Open folder.`);
      uploads = { cancelled: false };
      const done = [];
      const tell = () => showBusy({ text: `Adding ${number(done.length)} of ${counted(wanted.length, "file")}`, share: done.length / wanted.length, cancel: () => (uploads.cancelled = true) });
      tell();
      try {
        const waiting = [...wanted];
        const work = async () => {
          while (waiting.length && !uploads.cancelled) {
            const [file, path] = waiting.shift();
            done.push({ id: await Studio.upload(file), path });
            tell();
          }
        };
        await Promise.all(Array.from({ length: AT_ONCE }, work));
        if (uploads.cancelled) return tab.say("bad", "Cancelled; nothing was added.");
        const answer = await tab.askQuietly("add", { files: done, name });
        if (answer.error) return tab.say("bad", answer.error);
        uploads = null;
        const fresh = !tab.summary || tab.summary.data !== answer.data;
        if (fresh) {
          sheets.remember(answer.folder);
          await tab.enter(answer);
        } else await tab.changed(answer);
        const { pictures, captions, left_out_count: left } = answer.added;
        const out = files.length - wanted.length + left;
        tab.say("good", `Added ${counted(pictures, "picture")}${captions ? ` and ${counted(captions, "caption")}` : ""}.${out ? ` ${counted(out, "other file")} left out.` : ""}`);
      } catch (error) {
        tab.say("bad", error.message || "The upload failed. Try again.");
      } finally {
        uploads = null;
        if (tab.summary) drawBusy(tab.summary);
        else showBusy(null);
      }
    }

    parts.files.addEventListener("change", () => {
      add([...parts.files.files].map((file) => [file, file.webkitRelativePath || file.name]), "pictures");
      parts.files.value = "";
    });
    root.addEventListener("dragover", (event) => {
      if (![...event.dataTransfer.types].includes("Files")) return;
      event.preventDefault();
      root.classList.add("st-dropping");
    });
    root.addEventListener("dragleave", (event) => {
      if (!root.contains(event.relatedTarget)) root.classList.remove("st-dropping");
    });
    root.addEventListener("drop", async (event) => {
      if (![...event.dataTransfer.types].includes("Files")) return;
      event.preventDefault();
      root.classList.remove("st-dropping");
      const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry()).filter(Boolean);
      const found = (await Promise.all(entries.map((entry) => filesOf(entry, "")))).flat();
      const folder = entries.find((entry) => entry.isDirectory);
      await add(found, folder ? folder.name : "pictures");
    });

    // ---- searching and keys ----
    let searching = 0;
    parts.search.addEventListener("input", () => {
      clearTimeout(searching);
      searching = setTimeout(() => filterBy({ query: parts.search.value.trim() }), 200);
    });
    Studio.nameKey("← →", "the picture before, the next");
    Studio.nameKey("E, Esc", "edit the caption, leave it");
    Studio.nameKey("Ctrl + S", "save the caption");
    Studio.nameKey("X", "take the picture out");
    Studio.nameKey("/", "search");
    Studio.onKey((event, free) => {
      if (event.type !== "keydown" || Studio.currentTab() !== "dataset" || !tab.summary) return;
      if (document.querySelector("dialog[open]")) return;
      if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "s") {
        event.preventDefault();
        return void side.saveCaption();
      }
      if (event.key === "Escape") {
        if (side.leave()) return;
        if (document.activeElement && document.activeElement !== document.body) document.activeElement.blur();
        return;
      }
      if (!free || side.mode || !(event.target === document.body || root.contains(event.target))) return;
      const does = {
        ArrowRight: () => step(1), ArrowLeft: () => step(-1),
        ArrowDown: () => step(gallery.columns), ArrowUp: () => step(-gallery.columns),
        e: () => side.edit(), x: () => side.exclude(), "/": () => parts.search.focus(),
      }[event.key];
      if (!does) return;
      event.preventDefault();
      does();
    });
    window.addEventListener("beforeunload", (event) => side.dirty && event.preventDefault());

    showEmpty();
    Studio.dataset = {
      open: (request) => tab.open(request),
      get folder() { return tab.summary ? tab.summary.folder : ""; },
    };
  };
})();
