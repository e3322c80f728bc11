// "What are you teaching?": a subject and a kind of base, which together name a preset.
"use strict";
(() => {
  const { h } = window.Studio;

  // choices: {subjects, families, presets}; onChoose(preset) where another one is wanted.
  window.Studio.Teaching = class {
    constructor(choices, onChoose) {
      this.choices = choices;
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

    // The base is of this family: its preset for the same subject, if it is another one.
    follow(family) {
      if (this.preset && family && family !== this.family) this.choose(family, this.subject);
    }
  };
})();
