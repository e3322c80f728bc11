// Small helpers of the Train tab.
"use strict";
(() => {
  const { h } = window.Studio;

  // The note under the Train buttons: a started run is opened, a command is copied.
  window.Studio.mountSaid = (element, watch) => {
    watch("value", () => {
      const run = element.querySelector("[data-run]");
      if (run) return void window.Studio.openRun(run.dataset.run);
      const command = element.querySelector("[data-copy]");
      if (command) showCommand(command);
    });
  };

  function showCommand(holder) {
    const text = holder.dataset.copy;
    const button = h("button", { class: "st-button", type: "button", onclick: () => window.Studio.copy(text, button) }, "Copy");
    holder.replaceChildren(
      h("section", { class: "st-card" },
        h("div", { class: "st-card-head" }, h("h2", {}, "The same run as a command"), button),
        h("pre", { class: "st-command", tabindex: "0" }, text)));
    window.Studio.copy(text, button);
  }

  // What is wrong stands under its field; after Start the focus goes to the first of them.
  const FIELDS = ["preset", "pictures", "folder", "base", "name", "trigger", "steps", "rank", "lr"];

  window.Studio.mountMarks = (element, watch) => {
    watch("value", () => {
      const holder = element.querySelector("[data-marks]");
      if (!holder) return;
      const { wrong, focus } = JSON.parse(holder.dataset.marks);
      for (const name of FIELDS) mark(name, wrong[name] || "");
      // What was said of the form as it was no longer holds when it has changed.
      const said = document.querySelector("#st-said [data-form]");
      if (said && said.dataset.form !== holder.dataset.form) said.remove();
      if (!focus) return;
      const first = FIELDS.find((name) => wrong[name]);
      if (first) inputOf(first)?.focus();
    });
  };

  const inputOf = (name) => document.querySelector(`#st-${name} textarea, #st-${name} input`);

  function mark(name, text) {
    const block = document.querySelector(`#st-${name}`);
    const input = inputOf(name);
    if (!block || !input) return;
    const id = `st-problem-${name}`;
    let line = document.getElementById(id);
    if (!text) {
      line?.remove();
      input.removeAttribute("aria-invalid");
      input.removeAttribute("aria-describedby");
      block.classList.remove("st-wrong");
      return;
    }
    if (!line) {
      line = h("p", { class: "st-problem", id });
      block.append(line);
    }
    window.Studio.setText(line, text);
    input.setAttribute("aria-invalid", "true");
    input.setAttribute("aria-describedby", id);
    block.classList.add("st-wrong");
  }
})();
