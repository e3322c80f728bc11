// What new runs begin with on this computer, kept in this browser: Settings sets it, Train uses it.
"use strict";
(() => {
  const { h } = window.Studio;
  const CALLED = { "save.dtype": { label: "Numbers in the file", help: "How the adapter's numbers are stored; fp16 is half the size of fp32." } };
  const KEY = "studio-defaults", LAST = "studio-last-base";

  const read = (key) => {
    try {
      const found = JSON.parse(localStorage.getItem(key));
      return found && typeof found === "object" ? found : {};
    } catch {
      return {};
    }
  };

  // {"section.field": text}, laid over a preset.
  window.Studio.defaults = () => read(KEY);

  // {preset, base} that the last run from the form was started with.
  window.Studio.lastBase = () => read(LAST);
  window.Studio.rememberBase = (preset, base) => localStorage.setItem(LAST, JSON.stringify({ preset, base }));

  // A field for each of `fields`; its preset's own, or its schema's, where nothing is set.
  window.Studio.defaultFields = (fields) => {
    const set = window.Studio.defaults();
    return h("div", { class: "st-fields" }, fields.map((field) => {
      const box = new window.Studio.Field(field, { id: `st-default-${field.name.replace(".", "-")}`, ...CALLED[field.name] }, (text) => {
        const now = window.Studio.defaults();
        if (text.trim() && text !== field.default) now[field.name] = text.trim();
        else delete now[field.name];
        localStorage.setItem(KEY, JSON.stringify(now));
      });
      box.text = set[field.name] ?? field.default;
      return box.node;
    }));
  };
})();
