// One setting as a control: label, help, the box, and the place where what is wrong stands.
"use strict";
(() => {
  const { h } = window.Studio;
  const MULTILINE = new Set(["lines", "table", "toml"]);
  const HINTS = {
    table: "one 'pattern = number' a line",
    toml: '[[rows]]\nfolder = "…"',
    lines: "one a line",
  };

  // field: {name, label, kind, help, default, optional, choices}; onChange(text)
  window.Studio.Field = class {
    constructor(field, { id, label, help, suggestions, tall }, onChange) {
      this.field = field;
      this.id = id;
      this.input = this.box(field, suggestions, tall);
      this.input.id = id;
      this.input.setAttribute("aria-describedby", `${id}-help ${id}-problem`);
      this.input.addEventListener(this.input.tagName === "SELECT" || field.kind === "switch" ? "change" : "input", () => onChange(this.text));
      this.problem = h("p", { class: "st-problem", id: `${id}-problem`, hidden: true });
      const name = h("label", { for: id }, label || field.label);
      const about = h("p", { class: "st-help", id: `${id}-help` }, help || field.help);
      this.node = h("div", { class: `st-field st-field-${field.kind}`, "data-field": field.name },
        field.kind === "switch" ? [h("div", { class: "st-check" }, this.input, name), about] : [name, about, this.input],
        this.problem);
    }

    box(field, suggestions, tall) {
      if (field.kind === "switch") return h("input", { type: "checkbox" });
      if (field.kind === "choice") {
        const unset = field.optional ? [h("option", { value: "" }, "automatic")] : [];
        const spoken = { true: "yes", false: "no" };
        return h("select", {}, unset, field.choices.map((c) => h("option", { value: c }, spoken[c] || c)));
      }
      if (MULTILINE.has(field.kind)) {
        return h("textarea", { rows: tall || 3, spellcheck: "false", placeholder: HINTS[field.kind], class: field.kind === "lines" ? "" : "st-mono" });
      }
      const input = h("input", {
        type: "text", autocomplete: "off", spellcheck: "false",
        inputmode: field.kind === "number" ? "decimal" : null,
        placeholder: field.optional ? "automatic" : null,
      });
      if (suggestions) {
        input.setAttribute("list", `${this.id}-list`);
        return input;
      }
      return input;
    }

    get text() {
      return this.field.kind === "switch" ? String(this.input.checked) : this.input.value;
    }

    set text(text) {
      if (this.field.kind === "switch") this.input.checked = text === "true";
      else if (this.input.value !== text) this.input.value = text;
    }

    tell(problem) {
      this.problem.hidden = !problem;
      window.Studio.setText(this.problem, problem || "");
      this.node.classList.toggle("st-wrong", Boolean(problem));
      if (problem) this.input.setAttribute("aria-invalid", "true");
      else this.input.removeAttribute("aria-invalid");
    }
  };
})();
