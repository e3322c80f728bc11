// "What are you teaching?": a subject and a kind of base, which together name a preset.
"use strict";
(() => {
  const { h } = window.Studio;

  const FOLLOW_AFTER_MS = 500;

  // The last part of a folder's path as a name; "" where it gives none.
  window.Studio.nameFrom = (folder) => folder.trim().replace(/[\\/]+$/, "").split(/[\\/:]/).pop()
    .replace(/[^\w.-]+|_/g, "-").replace(/^[-.]+|[-.]+$/g, "");

  // choices: {subjects, families, presets}; familyOf(base) tells a base's family, or ""; onChoose(preset)
  // where another one is wanted.
  window.Studio.Teaching = class {
    constructor(choices, familyOf, onChoose) {
      this.choices = choices;
      this.familyOf = familyOf;
      this.onChoose = onChoose;
      this.preset = "";
      this.subjects = h("div", { class: "st-chips", role: "group", "aria-label": "What are you teaching?" },
        choices.subjects.map(([key, label]) => h("button", {
          class: "st-chip", type: "button", "data-subject": key, onclick: () => this.choose(this.family, key),
        }, label)));
      this.families = h("select", { id: "st-family", "aria-label": "Kind of base", onchange: () => this.choose(this.families.value, this.subject) },
        choices.families.map(([key, label]) => h("option", { value: key }, label)),
        h("option", { value: "", hidden: true }, "own settings"));
      this.node = h("div", { class: "st-field", id: "st-teaching" },
        h("label", { for: "st-family" }, "What are you teaching?"),
        h("p", { class: "st-help" }, "Picks settings known to suit it and this kind of base. What you have typed yourself stays."),
        h("div", { class: "st-teaching" }, this.subjects, this.families));
    }

    get family() { return this.preset.split("-")[0]; }
    get subject() { return this.preset.slice(this.family.length + 1); }

    show(preset) {
      this.preset = preset;
      this.families.value = this.family;
      for (const chip of this.subjects.children) {
        const { subject } = chip.dataset;
        chip.setAttribute("aria-pressed", String(subject === this.subject));
        chip.disabled = Boolean(preset) && !this.name(this.family, subject);
      }
    }

    name(family, subject) {
      const name = `${family}-${subject}`;
      return this.choices.presets.includes(name) ? name : "";
    }

    // Without a family yet, own settings say nothing of the base: the first that has all subjects.
    choose(family, subject) {
      const first = this.choices.families[1][0];
      this.onChoose(this.name(family || first, subject) || this.name(family || first, "character"));
    }

    // Once read() stays the same: the preset of that base's family for the same subject.
    followBase(read) {
      clearTimeout(this.timer);
      this.timer = setTimeout(async () => {
        const base = read();
        const family = await this.familyOf(base);
        if (this.preset && family && family !== this.family && base === read()) this.choose(family, this.subject);
      }, FOLLOW_AFTER_MS);
    }

    async suits(preset, base) {
      const family = await this.familyOf(base);
      return !family || family === preset.split("-")[0];
    }
  };
})();
