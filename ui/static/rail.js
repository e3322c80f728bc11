// The rail of the Runs tab: what works now, what waits (drag, or Alt+↑/↓), what was before; search
// and ticks for comparing.
"use strict";
(() => {
  const { h } = window.Studio;
  const SEARCH_FROM = 6; // fewer runs are seen at a glance
  const MOST_COMPARED = 4; // as many as the studio compares

  window.Studio.Rail = class {
    // on: {open(id), move(id, place), compare(ids), fresh()}
    constructor(on) {
      this.on = on;
      this.cards = [];
      this.shown = "";
      this.current = null;
      this.ticked = new Set();
      this.search = h("input", {
        class: "st-search", type: "search", placeholder: "Search runs", "aria-label": "Search runs",
        oninput: () => this.draw(true),
      });
      this.lists = h("div", { class: "st-lists" });
      this.compareButton = h("button", {
        class: "st-button st-primary st-wide", type: "button", hidden: true,
        onclick: () => on.compare([...this.ticked]),
      }, "Compare");
      this.node = h("nav", { class: "st-rail", "aria-label": "Runs" },
        h("button", { class: "st-button st-wide", type: "button", onclick: on.fresh }, "New run"),
        this.search, this.lists, this.compareButton);
    }

    show(cards, current) {
      this.cards = cards;
      this.current = current;
      const there = new Set(cards.map((card) => card.id));
      for (const id of this.ticked) if (!there.has(id)) this.ticked.delete(id);
      this.draw(false);
    }

    draw(force) {
      const text = JSON.stringify([this.cards, this.current, [...this.ticked]]);
      if ((text === this.shown && !force) || this.dragged) return;
      this.shown = text;
      this.search.hidden = this.cards.length < SEARCH_FROM;
      const words = this.search.hidden ? "" : this.search.value.trim().toLowerCase();
      const found = this.cards.filter((c) => `${c.title} ${c.line}`.toLowerCase().includes(words));
      const working = (card) => card.status === "running" || card.status === "paused";
      const held = this.node.contains(document.activeElement) ? document.activeElement : null;
      const back = held?.dataset.run ? `[data-run="${CSS.escape(held.dataset.run)}"]`
        : held?.dataset.tick ? `[data-tick="${CSS.escape(held.dataset.tick)}"]` : null;
      this.lists.replaceChildren(
        ...this.section("Now", found.filter(working)),
        ...this.section("Waiting", found.filter((c) => c.status === "waiting")),
        ...this.section("Earlier", found.filter((c) => !working(c) && c.status !== "waiting")),
        ...(found.length ? [] : [h("p", { class: "st-muted st-none" }, "No run is called that.")]));
      if (back) this.lists.querySelector(back)?.focus();
      this.compareButton.hidden = this.ticked.size < 2;
      this.compareButton.textContent = `Compare ${this.ticked.size} runs`;
    }

    section(title, cards) {
      if (!cards.length) return [];
      const waiting = title === "Waiting";
      if (waiting) {
        const rows = cards.map((card, place) => this.row(card, place));
        return [h("h2", {}, title), h("div", { class: "st-cards", role: "list" }, rows)];
      }
      // The runs of a sweep stand together, where the newest of them would.
      const groups = new Map();
      for (const card of cards) {
        const key = card.sweep ? `sweep ${card.sweep}` : card.id;
        groups.set(key, [...(groups.get(key) || []), card]);
      }
      const rows = [...groups.values()].map((group) =>
        group[0].sweep ? this.sweep(group) : this.row(group[0], null));
      return [h("h2", {}, title), h("div", { class: "st-cards", role: "list" }, rows)];
    }

    sweep(cards) {
      const { sweep } = cards[0];
      const ids = cards.map((card) => card.id);
      return h("div", { class: "st-sweep", role: "listitem" },
        h("div", { class: "st-sweep-head" },
          h("b", { title: sweep }, sweep),
          h("span", { class: "st-muted" }, `sweep · ${cards.length}`),
          cards.length > 1 && cards.length <= MOST_COMPARED
            ? h("button", { class: "st-link", type: "button", "aria-label": `Compare the runs of ${sweep}`, onclick: () => this.on.compare(ids) }, "Compare")
            : null),
        h("div", { class: "st-cards", role: "list" }, cards.map((card) => this.row(card, null))));
    }

    row(card, place) {
      const bad = card.status === "failed" || card.status === "interrupted";
      const grey = bad || card.status === "waiting";
      const button = h("button", {
        class: `st-card-button${grey ? " st-grey" : ""}`, type: "button", "data-run": card.id,
        "aria-current": String(card.id === this.current), onclick: () => this.on.open(card.id),
      },
        card.thumbnail ? h("img", { src: card.thumbnail, alt: "", draggable: "false" }) : h("span", { class: "st-blank" }),
        h("span", { class: "st-card-text" },
          h("b", { title: card.title }, card.sweep && place === null ? card.title.slice(card.sweep.length + 3) : card.title),
          h("span", { class: bad ? "st-bad" : "", title: card.line }, card.line),
          card.status === "running" || card.status === "paused"
            ? h("span", { class: `st-bar st-thin st-${card.status}` }, h("i", { style: `width:${(card.share * 100).toFixed(1)}%` }))
            : null));
      const row = h("div", { class: "st-card-row", role: "listitem" }, button);
      if (place === null) row.append(this.tick(card));
      else this.makeMovable(row, button, card, place);
      return row;
    }

    tick(card) {
      return h("input", {
        class: "st-tick", type: "checkbox", "data-tick": card.id, checked: this.ticked.has(card.id),
        "aria-label": `Compare ${card.title}`, title: "Tick two to compare them",
        onchange: (event) => {
          if (event.target.checked) this.ticked.add(card.id);
          else this.ticked.delete(card.id);
          this.draw(true);
        },
      });
    }

    makeMovable(row, button, card, place) {
      row.draggable = true;
      button.title = "Drag, or Alt+↑ and Alt+↓, to change the order";
      button.setAttribute("aria-keyshortcuts", "Alt+ArrowUp Alt+ArrowDown");
      button.addEventListener("keydown", (event) => {
        const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
        if (!event.altKey || !by) return;
        event.preventDefault();
        if (place + by >= 0) this.on.move(card.id, place + by);
      });
      row.addEventListener("dragstart", (event) => {
        this.dragged = card.id;
        event.dataTransfer.effectAllowed = "move";
        event.dataTransfer.setData("text/plain", card.id);
        row.classList.add("st-dragged");
      });
      row.addEventListener("dragend", () => {
        this.dragged = null;
        this.draw(true);
      });
      row.addEventListener("dragover", (event) => {
        if (!this.dragged || this.dragged === card.id) return;
        event.preventDefault();
        const list = row.parentElement;
        const moved = list.querySelector(".st-dragged");
        const box = row.getBoundingClientRect();
        list.insertBefore(moved, event.clientY < box.top + box.height / 2 ? row : row.nextSibling);
      });
      row.addEventListener("drop", (event) => event.preventDefault());
      row.addEventListener("dragend", () => {
        const order = [...this.lists.querySelectorAll("[draggable=true] [data-run]")];
        const now = order.findIndex((each) => each.dataset.run === card.id);
        if (now >= 0 && now !== place) this.on.move(card.id, now);
      }, { capture: true }); // before the list is drawn anew
    }
  };
})();
