// Small helpers of the Train and Try tabs.
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

  // Try: hold B over the result to see the base alone.
  window.Studio.mountTry = (element) => {
    window.Studio.onKey((event, free) => {
      if (window.Studio.currentTab() !== "try" || event.key !== "b") return;
      const image = element.querySelector(".st-after img");
      if (!image) return;
      if (!image.dataset.after) image.dataset.after = image.getAttribute("src");
      if (event.type === "keydown" && free && !event.repeat) image.src = image.dataset.before;
      if (event.type === "keyup") image.src = image.dataset.after;
    });
  };

  // Start with a wrong field: the focus goes to it.
  document.addEventListener("click", (event) => {
    if (!event.target.closest || !event.target.closest("#st-start")) return;
    setTimeout(() => {
      const wrong = document.querySelector(".st-form .validation-error");
      const box = wrong && wrong.closest(".block")?.querySelector("input, textarea");
      if (box) box.focus();
    }, 400);
  });
})();
