// The Runs tab: asks the studio about once a second, draws what it is told, keeps the rest.
"use strict";
(() => {
  const { h, setText, number, duration } = window.Studio;
  const EVERY_MS = 1000;

  window.Studio.mountRuns = (element, server) => {
    const root = element.querySelector(".st-runs");
    const state = {
      run: new URLSearchParams(location.search).get("run"),
      seen: "",
      view: null,
      step: null, // the chosen preview step; null follows the newest
      before: false,
      polling: false,
      failures: 0,
    };
    const asked = Number.parseInt(new URLSearchParams(location.search).get("step"), 10);
    if (Number.isFinite(asked)) state.step = asked;

    const rail = new window.Studio.Rail({
      open,
      fresh: () => window.Studio.openTab("train"),
      compare,
      move: async (id, place) => {
        await ask("studio_move", { run: id, place });
        refresh();
      },
    });
    const stage = h("div", { class: "st-stage" });
    const note = h("p", { class: "st-flash", role: "alert", hidden: true });
    const chart = new window.Studio.LossChart((step) => choose(step));
    const parts = buildStage();
    const dialog = buildDialog();
    root.replaceChildren(h("div", { class: "st-loading" }, "Looking for runs…"));

    // ---- talking to the studio ----
    async function ask(name, request) {
      let answer;
      try {
        answer = await server[name](request);
      } catch {
        answer = undefined;
      }
      if (!answer || typeof answer !== "object") {
        state.failures += 1;
        if (state.failures > 1) window.Studio.showAway(await whyAway());
        return null;
      }
      state.failures = 0;
      window.Studio.showAway("");
      if (answer.error) {
        flash(answer.error);
        return null;
      }
      return answer;
    }

    // A studio that was started again has a new link; one that is down has no answer at all.
    async function whyAway() {
      try {
        const answer = await fetch("/studio/static/studio.css", { cache: "no-store" });
        return answer.status === 403
          ? "The studio was started again: open its new link. Training goes on."
          : "The studio is busy. Training goes on.";
      } catch {
        return "The studio is not running. Training goes on.";
      }
    }

    async function poll() {
      if (state.polling) return void (state.again = true);
      state.polling = true;
      const wanted = state.run;
      const seen = state.whole ? "" : state.seen;
      state.whole = false;
      const answer = await ask("studio_poll", { run: wanted, seen });
      state.polling = false;
      if (state.again) {
        state.again = false;
        setTimeout(poll, 0);
      }
      if (!answer || wanted !== state.run) return;
      state.seen = answer.seen;
      window.Studio.showMachine(answer.machine);
      rail.show(answer.cards, state.run || (answer.run && answer.run.id));
      window.Studio.showRunning(answer.cards.find((card) => ["running", "paused"].includes(card.status)));
      if (!answer.cards.length) return drawEmpty();
      if (!answer.same) drawRun(answer.run);
      else countDown();
    }

    // Be told the whole run again, also if nothing about it is new.
    function refresh() {
      state.whole = true;
      return poll();
    }

    function flash(text) {
      note.textContent = text;
      note.hidden = false;
      clearTimeout(flash.timer);
      flash.timer = setTimeout(() => (note.hidden = true), 9000);
    }

    // ---- choosing ----
    function open(id) {
      state.run = id;
      state.step = null;
      window.Studio.link({ tab: "runs", run: id, step: null });
      if (state.comparing) endComparison();
      mark(id);
      parts.log.open = parts.settings.open = parts.verdict.open = false;
      refresh();
    }
    window.Studio.openRun = (id) => {
      window.Studio.openTab("runs");
      open(id);
    };

    function choose(step) {
      const previews = state.view ? state.view.previews : [];
      const newest = previews.length ? previews[previews.length - 1].step : null;
      state.step = step === newest ? null : step;
      window.Studio.link({ step: state.step === null ? null : String(state.step) });
      drawPreviews();
      drawChart();
      drawButtons(state.view);
    }

    function mark(id) {
      for (const button of rail.node.querySelectorAll("[data-run]")) {
        button.setAttribute("aria-current", String(button.dataset.run === id));
      }
    }

    // ---- comparing ----
    async function compare(ids) {
      const answer = await ask("studio_compare", { runs: ids });
      if (!answer) return;
      state.comparing = window.Studio.comparison(answer, endComparison);
      stage.replaceWith(state.comparing);
      window.scrollTo(0, 0);
    }

    function endComparison() {
      if (state.comparing.isConnected) state.comparing.replaceWith(stage);
      state.comparing = null;
    }

    function chosen() {
      const previews = state.view ? state.view.previews : [];
      return previews.find((p) => p.step === state.step) || previews[previews.length - 1] || null;
    }

    // ---- stage ----
    function buildStage() {
      const p = {};
      p.title = h("h1", {});
      p.subtitle = h("p", { class: "st-sub" });
      p.buttons = h("div", { class: "st-buttons" });
      p.note = h("div", { class: "st-note", role: "status", hidden: true });
      p.bar = h("i", {});
      p.track = h("div", { class: "st-bar", role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100", "aria-label": "Progress" }, p.bar);
      p.stepText = h("span", {});
      p.leftText = h("span", {});
      p.said = h("span", { class: "st-muted", role: "status" });
      p.figures = h("dl", { class: "st-figures" });
      p.previewTitle = h("span", { class: "st-muted" });
      p.pictures = h("div", { class: "st-pictures" });
      p.strip = h("div", { class: "st-strip", role: "group", "aria-label": "Steps with previews" });
      p.previewCard = h("section", { class: "st-card" },
        h("div", { class: "st-card-head" },
          h("h2", {}, "Previews"), p.previewTitle,
          p.sheet = h("a", { class: "st-link", hidden: true }, "Save as one picture"),
          h("span", { class: "st-keys", "aria-hidden": "true" }, h("kbd", {}, "←"), h("kbd", {}, "→"), " step ", h("kbd", {}, "B"), " hold for before")),
        p.pictures, p.strip);
      p.chartCard = h("section", { class: "st-card" },
        h("div", { class: "st-card-head" },
          h("h2", {}, "Loss"),
          h("span", { class: "st-legend" }, h("i", { class: "st-raw" }), "each step"),
          h("span", { class: "st-legend" }, h("i", { class: "st-solid" }), "smoothed"),
          p.validationLegend = h("span", { class: "st-legend", hidden: true }, h("i", { class: "st-dashed" }), "validation"),
          chart.whole),
        chart.node);
      p.map = new window.Studio.LossMap();
      p.notes = h("ul", { class: "st-notes", hidden: true });
      p.logText = h("pre", { tabindex: "0" });
      p.verdict = window.Studio.verdict(ask, () => state.view && state.view.id);
      p.log = details("Log", p.logText, "studio_log");
      p.settingsText = h("pre", { tabindex: "0" });
      p.settings = details("Settings of this run", p.settingsText, "studio_settings");
      stage.append(
        h("div", { class: "st-head" }, h("div", {}, p.title, p.subtitle), p.buttons),
        note, p.note,
        p.progress = h("div", { class: "st-run-progress" }, p.track, h("div", { class: "st-ends" }, p.stepText, p.said, p.leftText)),
        p.figures, p.chartCard, p.previewCard, p.verdict, p.map.node, p.notes, p.log, p.settings);
      return p;
    }

    function details(title, body, question) {
      const node = h("details", { class: "st-card st-details" }, h("summary", {}, title), body);
      const load = async () => {
        if (!node.open || document.hidden || !state.view) return;
        const answer = await ask(question, { run: state.view.id });
        if (!answer) return;
        const atEnd = body.scrollHeight - body.scrollTop - body.clientHeight < 40;
        setText(body, answer.text);
        if (atEnd) body.scrollTop = body.scrollHeight;
      };
      node.addEventListener("toggle", load);
      if (question === "studio_log") setInterval(load, 3000);
      return node;
    }

    function drawRun(view) {
      if (!state.view || state.view.id !== view.id) {
        state.run = view.id;
        parts.pictures.replaceChildren();
        parts.strip.replaceChildren();
        parts.strip.dataset.shown = "";
      }
      state.view = view;
      if (!stage.isConnected && !state.comparing) root.replaceChildren(rail.node, stage, dialog);
      setText(parts.title, view.title);
      setText(parts.subtitle, view.subtitle);
      drawButtons(view);
      drawNote(view);
      const begun = view.status !== "waiting" && view.status !== "prepared";
      parts.progress.hidden = parts.figures.hidden = parts.log.hidden = !begun;
      parts.verdict.hidden = !view.step;
      drawProgress(view);
      parts.figures.replaceChildren(...view.figures.map((f) =>
        h("div", {}, h("dt", {}, f.label), h("dd", {}, f.value, f.unit ? h("small", {}, ` ${f.unit}`) : null))));
      parts.chartCard.hidden = !view.curve.steps.length;
      parts.validationLegend.hidden = !view.validation.length;
      drawChart();
      drawPreviews();
      parts.map.show(view.loss_map);
      parts.notes.hidden = !view.notes.length;
      parts.notes.replaceChildren(...view.notes.map((text) => h("li", {}, text)));
      mark(view.id);
    }

    // The adapter that Export gives: of the chosen step, else of the best one, else the last.
    function exported() {
      const { exports, best_step } = state.view;
      const of = (step) => exports.find((each) => each.step === step);
      return (state.step !== null && of(state.step)) || of(best_step) || exports[exports.length - 1];
    }

    function drawButtons(view) {
      const download = view.status === "finished" ? exported() : null;
      const wanted = JSON.stringify([view.id, view.status, Boolean(view.phase && !view.step), view.short_of_memory, download]);
      if (parts.buttons.dataset.shown === wanted) return;
      parts.buttons.dataset.shown = wanted;
      parts.buttons.replaceChildren(...window.Studio.runActions(view, steering, askToStop, exported).map((action) => {
        if (!("download" in action)) {
          return h("button", { class: `st-button ${action.kind || ""}`, type: "button", onclick: action.run }, action.label);
        }
        const file = action.download;
        return file && h("a", { class: "st-button", href: file.url, download: file.name, title: `${file.name}, ${file.size}` },
          `Export step ${number(file.step)}`);
      }).filter(Boolean));
    }

    const SAID = {
      studio_pause: "It holds after the current step.",
      studio_sample: "It draws after the current step.",
      studio_save: "It saves after the current step.",
    };

    async function steering(name, more) {
      for (const button of parts.buttons.querySelectorAll("button")) button.disabled = true;
      const answer = await ask(name, { run: state.view.id, ...more });
      parts.buttons.dataset.shown = "";
      const all = name === "studio_pause" && state.view.together > 1;
      if (answer && SAID[name]) setText(parts.said, all ? "The sweep holds after the current step." : SAID[name]);
      setTimeout(() => setText(parts.said, ""), 4000);
      if (answer && name === "studio_pause") return; // the buttons come back when it holds
      await refresh();
    }

    function drawNote(view) {
      parts.note.hidden = !view.note;
      if (!view.note) return;
      parts.note.className = `st-note st-${view.note.kind}`;
      parts.note.replaceChildren(h("b", {}, view.note.title), " ", view.note.text);
    }

    function drawProgress(view) {
      const counted = view.phase && view.phase_share !== null;
      const percent = (counted ? view.phase_share : view.share) * 100;
      parts.bar.style.width = `${percent.toFixed(2)}%`;
      parts.track.setAttribute("aria-valuenow", percent.toFixed(0));
      parts.track.className = `st-bar st-${view.status}${!view.phase ? "" : counted ? " st-preparing" : " st-waiting"}`;
      parts.stepText.replaceChildren(
        ...(view.phase ? [h("span", { class: "st-dot" }), view.phase] : ["Step ", h("b", {}, number(view.step)), view.total ? ` of ${number(view.total)}` : ""]));
      state.shownAt = Date.now();
      countDown();
    }

    // Between two answers the clock goes on, so that the page never looks stuck.
    function countDown() {
      const view = state.view;
      if (!view) return;
      const passed = (Date.now() - (state.shownAt || Date.now())) / 1000;
      if (view.left_seconds === null || view.left_seconds === undefined) {
        const ago = view.ended_at ? `Ended ${duration(Math.max(0, Date.now() / 1000 - view.ended_at))} ago` : "";
        parts.leftText.replaceChildren(view.took ? `Finished in ${view.took}` : ago);
      } else {
        const left = Math.max(0, view.left_seconds - passed);
        const clock = new Date(Date.now() + left * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
        parts.leftText.replaceChildren(h("b", {}, duration(left)), ` left, done about ${clock}`);
      }
      const slot = parts.strip.querySelector(".st-slot span");
      if (slot && view.next_preview && view.next_preview.seconds !== null) {
        setText(slot, `in ${duration(Math.max(0, view.next_preview.seconds - passed))}`);
      }
    }

    function drawChart() {
      const view = state.view;
      const shown = chosen();
      chart.show({
        run: view.id, curve: view.curve, validation: view.validation, best: view.best_step,
        previews: view.previews, total: view.total,
        chosen: shown ? shown.step : null, live: view.status === "running",
      });
    }

    // ---- previews ----
    function drawPreviews() {
      const view = state.view;
      const shown = state.before ? view.previews[0] : chosen();
      parts.previewCard.hidden = !shown;
      if (!shown) return;
      const newest = view.previews[view.previews.length - 1];
      const words = shown.step === 0 ? "Before training" : `Step ${number(shown.step)}`;
      setText(parts.previewTitle, shown === newest && view.status === "running" && shown.step ? `${words} (newest)` : words);
      while (parts.pictures.children.length > shown.pictures.length) parts.pictures.lastChild.remove();
      shown.pictures.forEach((picture, i) => {
        let figure = parts.pictures.children[i];
        if (!figure) {
          figure = h("figure", {}, h("img", {}), h("figcaption", {}));
          parts.pictures.append(figure);
        }
        const image = figure.querySelector("img");
        if (image.getAttribute("src") !== picture.url) image.src = picture.url;
        image.alt = `${words}: ${picture.prompt}`;
        setText(figure.querySelector("figcaption"), picture.prompt);
      });
      parts.sheet.hidden = !view.contact_sheet;
      if (view.contact_sheet) {
        parts.sheet.href = view.contact_sheet;
        parts.sheet.download = `${view.id}.png`;
      }
      drawStrip(view, shown);
    }

    function drawStrip(view, shown) {
      const steps = view.previews.map((p) => p.step).join();
      const slot = view.next_preview ? view.next_preview.step : "";
      const wanted = `${view.id}/${steps}/${slot}`;
      if (parts.strip.dataset.shown !== wanted) {
        const focused = parts.strip.contains(document.activeElement) ? document.activeElement.dataset.step : null;
        parts.strip.dataset.shown = wanted;
        parts.strip.replaceChildren(
          ...view.previews.map((p) =>
            h("button", { type: "button", "data-step": p.step, "aria-label": p.step ? `Step ${p.step}` : "Before training", onclick: () => choose(p.step) },
              h("img", { src: p.pictures[0].thumbnail, alt: "" }), h("span", {}, number(p.step)))),
          ...(view.next_preview ? [h("div", { class: "st-slot" }, h("span", {}, "soon"), h("small", {}, number(view.next_preview.step)))] : []));
        if (focused) parts.strip.querySelector(`[data-step="${focused}"]`)?.focus();
        if (state.step === null) parts.strip.scrollLeft = parts.strip.scrollWidth;
      }
      for (const button of parts.strip.querySelectorAll("[data-step]")) {
        button.setAttribute("aria-pressed", String(Number(button.dataset.step) === shown.step));
      }
    }

    // ---- empty ----
    function drawEmpty() {
      state.view = null;
      if (root.querySelector(".st-empty")) return;
      root.replaceChildren(
        h("div", { class: "st-empty" },
          h("img", { src: "/studio/static/welcome.svg", alt: "", width: "220", height: "220" }),
          h("h1", {}, "No runs yet"),
          h("p", {}, "A run teaches a model your subject or style. Try it first with our own pictures: a few minutes, no download."),
          note,
          h("div", { class: "st-buttons" },
            h("button", { class: "st-button st-primary", type: "button", onclick: demo }, "Run the demo"),
            h("button", { class: "st-button", type: "button", onclick: () => { window.Studio.trainOnOwn(); } }, "Use my own pictures"))));
    }

    async function demo(event) {
      const button = event.currentTarget;
      button.disabled = true;
      const answer = await ask("studio_demo", {});
      button.disabled = false;
      if (answer) open(answer.run);
    }

    // ---- stop and resume ----
    function buildDialog() {
      const title = h("h2", {}, "");
      const text = h("p", {}, "");
      const close = () => node.close();
      const node = h("dialog", { class: "st-dialog", "aria-label": "Stop this run" }, title, text,
        h("div", { class: "st-buttons" },
          h("button", { class: "st-button st-stop", type: "button", onclick: async () => {
            close();
            for (const b of parts.buttons.querySelectorAll("button")) b.disabled = true;
            if (await ask("studio_stop", { run: state.view.id })) setText(parts.leftText, "Saving and stopping…");
            else parts.buttons.dataset.shown = "";
          } }, "Stop and save"),
          h("button", { class: "st-button", type: "button", onclick: close }, "Keep going")));
      node.titleNode = title;
      node.textNode = text;
      return node;
    }

    function askToStop() {
      const { step, sweep, together } = state.view;
      setText(dialog.titleNode, together > 1
        ? `Stop all ${together} runs of the sweep '${sweep}'?`
        : `Stop after saving step ${number(step)}?`);
      setText(dialog.textNode, together > 1
        ? "They take turns in one process. Each saves its state first, so that it can go on from there later."
        : "It saves its state first, so that it can go on from there later.");
      dialog.showModal();
    }

    // ---- keys ----
    window.Studio.nameKey("← →", "Runs: the previews of another step");
    window.Studio.nameKey("B", "hold: before training, the base alone");
    window.Studio.nameKey("Alt + ↑ ↓", "Runs: move a waiting run in line");
    window.Studio.nameKey("/", "search");
    window.Studio.onKey((event, free) => {
      if (window.Studio.currentTab() !== "runs" || !state.view || state.comparing) return;
      if (event.type === "keydown" && free && event.key === "/" && !rail.search.hidden) {
        event.preventDefault();
        rail.search.focus();
      }
      if (!state.view.previews.length) return;
      if (event.key === "b" && (event.type === "keyup" || (free && !event.repeat))) {
        state.before = event.type === "keydown";
        drawPreviews();
      }
      if (event.type === "keydown" && free && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
        const previews = state.view.previews;
        const at = previews.indexOf(chosen()) + (event.key === "ArrowLeft" ? -1 : 1);
        if (previews[at]) choose(previews[at].step);
        event.preventDefault();
      }
    });

    document.addEventListener("visibilitychange", () => document.hidden || poll());
    setInterval(() => document.hidden || poll(), EVERY_MS);
    poll();
  };
})();
