// Shared by all tabs: building elements, tabs, light and dark, keys, the header.
"use strict";
(() => {
  const Studio = (window.Studio = window.Studio || {});

  // ---- elements: text always enters as text, never as markup ----
  Studio.h = (tag, props = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(props)) {
      if (value === null || value === undefined || value === false) continue;
      if (name === "class") node.className = value;
      else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else node.setAttribute(name, value === true ? "" : String(value));
    }
    node.append(...children.flat().filter((c) => c !== null && c !== undefined && c !== false));
    return node;
  };

  // A picture that can't be shown: a plain field instead of the browser's broken icon.
  document.addEventListener(
    "error",
    (event) => {
      if (event.target instanceof HTMLImageElement) event.target.classList.add("st-unreadable");
    },
    true,
  );

  Studio.setText = (node, text) => {
    if (node.textContent !== text) node.textContent = text;
  };

  Studio.number = (value) => value.toLocaleString("en-US");

  Studio.duration = (seconds) => {
    const whole = Math.max(0, Math.round(seconds));
    if (whole < 60) return `${whole} s`;
    if (whole < 3600) {
      const minutes = Math.floor(whole / 60);
      return minutes < 3 && whole % 60 ? `${minutes} min ${whole % 60} s` : `${Math.round(whole / 60)} min`;
    }
    const minutes = Math.round((whole % 3600) / 60);
    return minutes ? `${Math.floor(whole / 3600)} h ${minutes} min` : `${Math.floor(whole / 3600)} h`;
  };

  // Hand a file to the studio; resolves to its id, or throws the sentence why not.
  Studio.upload = async (file) => {
    const where = `/studio/upload?name=${encodeURIComponent(file.name)}`;
    const answer = await (await fetch(where, { method: "POST", body: file })).json();
    if (answer.error) throw new Error(answer.error);
    return answer.id;
  };

  Studio.copy = async (text, button) => {
    const before = button.textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Select and copy";
    }
    setTimeout(() => (button.textContent = before), 1600);
  };

  // Programs that read adapters, and why one does not read a file right.
  Studio.readers = { diffusers: "diffusers", "a1111-forge": "A1111, Forge", comfyui: "ComfyUI", invokeai: "InvokeAI", "sd-scripts": "sd-scripts" };
  Studio.whyUnread = (told) => (told.dropped[0] || told.wrong[0] || {}).reason || told.delta;

  // ---- tabs and deep links ----
  const TABS = ["dataset", "train", "runs", "compose", "tools", "settings"];
  const nameOf = (button) => button.textContent.trim().toLowerCase();
  // Gradio folds tabs that a narrow page has no room for into a list behind "…".
  const tabButtons = () => [
    ...document.querySelectorAll("#st-tabs button[role=tab]"),
    ...document.querySelectorAll("#st-tabs .overflow-dropdown button"),
  ];
  const tabButton = (id) => tabButtons().find((button) => nameOf(button) === id);

  Studio.currentTab = () => {
    const chosen = tabButtons().find((button) => button.matches(".selected"));
    return chosen ? nameOf(chosen) : "runs";
  };

  Studio.openTab = (id) => {
    const button = tabButton(id);
    if (button && !button.matches(".selected")) button.click();
  };

  Studio.link = (changes) => {
    const query = new URLSearchParams(location.search);
    for (const [name, value] of Object.entries(changes)) {
      if (value) query.set(name, value);
      else query.delete(name);
    }
    const text = query.toString();
    history.replaceState(history.state, "", text ? `?${text}` : location.pathname);
  };

  // ---- light and dark: the system's choice until one is made here ----
  const wanted = () => {
    const kept = localStorage.getItem("studio-theme");
    if (kept === "dark" || kept === "light") return kept;
    return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  };
  const applyTheme = () => {
    const dark = wanted() === "dark";
    if (document.body.classList.contains("dark") !== dark) {
      document.body.classList.toggle("dark", dark);
    }
    document.documentElement.style.colorScheme = dark ? "dark" : "light";
  };
  Studio.switchTheme = () => Studio.chooseTheme(wanted() === "dark" ? "light" : "dark");
  // "light", "dark", or nothing: as the system.
  Studio.chooseTheme = (theme) => {
    if (theme) localStorage.setItem("studio-theme", theme);
    else localStorage.removeItem("studio-theme");
    applyTheme();
    window.dispatchEvent(new Event("studio-theme"));
  };

  // ---- keys: never while typing, except with Ctrl ----
  const keys = [];
  Studio.onKey = (handler) => keys.push(handler);

  // Each tab names its own keys for the list, and the button that Ctrl+Enter presses in it.
  const keyList = [
    ["1 – 6", "open a tab"],
    ["T", "light or dark"],
    ["?", "this list"],
    ["Ctrl + Enter", "start, draw: the main button"],
  ];
  const mainButtons = { train: "#st-start", compose: "#st-draw" };
  Studio.nameKey = (key, does) => keyList.push([key, does]);
  Studio.mainButton = (tab, selector) => (mainButtons[tab] = selector);

  Studio.showKeys = () => {
    const close = () => dialog.close();
    const dialog = Studio.h("dialog", { class: "st st-dialog st-key-list", "aria-label": "Keys" },
      Studio.h("h2", {}, "Keys"),
      Studio.h("dl", {}, keyList.map(([key, does]) =>
        Studio.h("div", {}, Studio.h("dt", {}, Studio.h("kbd", {}, key)), Studio.h("dd", {}, does)))),
      Studio.h("div", { class: "st-buttons" },
        Studio.h("button", { class: "st-button", type: "button", onclick: close }, "Close")));
    dialog.addEventListener("close", () => dialog.remove());
    document.querySelector("#st-top").append(dialog);
    dialog.showModal();
  };
  const typing = (target) =>
    target instanceof Element &&
    Boolean(target.closest("input:not([type=range]):not([type=radio]), textarea, select, [contenteditable]"));

  document.addEventListener("keydown", (event) => {
    const free = !typing(event.target) && !event.metaKey && !event.altKey && !event.ctrlKey;
    if (free && event.key === "t") Studio.switchTheme();
    if (free && event.key === "?" && !document.querySelector("dialog[open]")) Studio.showKeys();
    if (free && /^[1-9]$/.test(event.key)) tabButtons()[Number(event.key) - 1]?.click();
    if ((event.ctrlKey || event.metaKey) && event.key === "Enter") {
      const main = mainButtons[Studio.currentTab()];
      const button = main && document.querySelector(main);
      if (button && !button.disabled) {
        event.preventDefault();
        button.click();
      }
    }
    for (const handler of keys) handler(event, free);
  });
  document.addEventListener("keyup", (event) => {
    for (const handler of keys) handler(event, false);
  });

  // ---- header ----
  Studio.mountHeader = (element) => {
    applyTheme();
    new MutationObserver(applyTheme).observe(document.body, { attributeFilter: ["class"] });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", applyTheme);
    element.querySelector("[data-theme-switch]").addEventListener("click", Studio.switchTheme);
    const pill = element.querySelector(".st-pill");
    pill.addEventListener("click", () => Studio.openRun && Studio.openRun(pill.dataset.run));
    element.querySelector("[data-key-list]").addEventListener("click", Studio.showKeys);
    Studio.header = {
      pill, away: element.querySelector(".st-away"), machine: element.querySelector(".st-machine"),
    };

    const asked = new URLSearchParams(location.search).get("tab");
    let tries = TABS.includes(asked) ? 200 : 0; // tabs answer only once Gradio has brought them to life
    const settle = () => {
      if (Studio.currentTab() === asked) tries = 0;
      if (!tries) return;
      tries -= 1;
      Studio.openTab(asked);
      setTimeout(settle, 50);
    };
    settle();
    document.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!tabButtons().includes(button) || (tries && !event.isTrusted)) return;
      tries = 0; // what a person chooses counts more than the link
      Studio.link({ tab: nameOf(button) });
    });
  };

  Studio.showRunning = (card) => {
    const header = Studio.header;
    if (!header) return;
    header.pill.hidden = !card;
    const share = card ? Math.floor(card.share * 100) : 0;
    if (card) {
      header.pill.dataset.run = card.id;
      const text = card.share ? [`${share}%`, card.left].filter(Boolean).join(" · ") : "Preparing";
      Studio.setText(header.pill.querySelector("span"), text);
      header.pill.title = `${card.title}: open this run`;
    }
    const done = card && card.share ? `${share}%` : "Preparing";
    document.title = card ? `${done} · ${card.title}` : "LoRA studio";
  };

  Studio.showMachine = (text) => {
    if (!Studio.header) return;
    Studio.header.machine.hidden = !text;
    Studio.setText(Studio.header.machine, text || "");
  };

  Studio.showAway = (text) => {
    if (!Studio.header) return;
    Studio.header.away.hidden = !text;
    Studio.setText(Studio.header.away, text);
  };
})();
