// Parts of a run's stage: what can be done with it, what it tells, its pictures one by one.
"use strict";
(() => {
  const { h, number } = window.Studio;

  // What can be done with a run, by its state; the first is what one most likely wants.
  // steering(name, more) asks the studio; exported() is the adapter that Export gives.
  window.Studio.runActions = (view, steering, askToStop, exported) => {
    const steer = (label, name, more) => ({ label, run: () => steering(name, more) });
    const first = (action) => ({ ...action, kind: "st-primary" });
    const train = (label, edit) => ({ label, run: () => window.Studio.trainLike(view.id, edit) });
    const stop = { label: "Stop", kind: "st-stop", run: askToStop };
    const now = [steer("Sample now", "studio_sample"), steer("Save now", "studio_save"), stop];
    switch (view.status) {
      case "running":
        return view.phase && !view.step ? [stop] : [steer("Pause", "studio_pause"), ...now];
      case "paused":
        return [first(steer("Resume", "studio_unpause")), ...now];
      case "waiting":
        return [train("Edit", true), train("Duplicate", false), steer("Take out of line", "studio_unqueue")];
      case "prepared":
        return [first(steer("Start", "studio_resume")), train("Edit", true), train("Duplicate", false)];
      case "finished":
        return [
          first({ label: "Try in Compose", run: () => window.Studio.composeAdd(`run/${view.id}`) }),
          { download: exported() }, train("Duplicate", false)];
      default: {
        const less = first(steer("Resume with less memory", "studio_resume", { less_memory: true }));
        const resume = steer("Resume", "studio_resume");
        return [
          ...(view.short_of_memory ? [less, resume] : [first(resume)]),
          train(view.status === "failed" ? "Edit" : "Duplicate", false)];
      }
    }
  };

  // What the run tells, asked for when it is opened: the whole run is read for it.
  window.Studio.verdict = (ask, shownRun) => {
    const body = h("div", { class: "st-map" });
    const node = h("details", { class: "st-card st-details" }, h("summary", {}, "What it tells, and what to change next"), body);
    node.addEventListener("toggle", async () => {
      const run = shownRun();
      if (!node.open || !run) return;
      body.replaceChildren(h("p", { class: "st-muted" }, "Reading the run…"));
      const told = await ask("studio_explain", { run });
      if (!told || run !== shownRun()) return;
      const settings = told.advice.filter((each) => each.setting);
      const changes = Object.fromEntries(settings.map((each) => [each.setting, each.after]));
      body.replaceChildren(
        h("p", {}, h("b", {}, told.headline)),
        ...told.says.map((sentence) => h("p", {}, sentence)),
        ...(told.advice.length ? [h("ul", { class: "st-findings" }, told.advice.map(advice))] : []),
        ...(settings.length ? [h("div", { class: "st-buttons" }, h("button", {
          class: "st-button", type: "button", onclick: () => window.Studio.trainLike(run, false, changes),
        }, "Train again with these changes"))] : []));
    });
    return node;
  };

  const advice = (each) => h("li", {},
    ...(each.setting ? [h("b", {}, each.setting), ` ${each.before} → `, h("b", {}, each.after), ". "] : []),
    each.text);

  // What single pictures of the dataset do: which stand out, and the map of all.
  window.Studio.LossMap = class {
    constructor() {
      this.body = h("div", { class: "st-map" });
      this.node = h("details", { class: "st-card st-details", hidden: true }, h("summary", {}, "Picture by picture"), this.body);
      this.shown = "";
    }

    show(map) {
      this.node.hidden = !map;
      const wanted = JSON.stringify(map);
      if (!map || this.shown === wanted) return;
      this.shown = wanted;
      const none = "No picture stands out: captions fit, and none is memorised more than the others.";
      this.body.replaceChildren(
        h("p", { class: "st-muted" }, `Measured at step ${number(map.step)}. `, map.leak),
        map.findings.length
          ? h("ul", { class: "st-findings" }, map.findings.map((f) => h("li", {}, h("b", {}, f.picture), ` ${f.text}`)))
          : h("p", {}, none),
        map.url ? h("img", { src: map.url, alt: `Loss by picture and timestep at step ${map.step}`, loading: "lazy" }) : "");
    }
  };
})();
