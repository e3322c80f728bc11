// A gallery of any number of pictures: only the cards in sight exist, their names come page by page.
"use strict";
(() => {
  const { h, setText, number } = window.Studio;
  const PAGE = 120, KEPT_PAGES = 6, MARGIN_ROWS = 2, GAP = 10, TEXT = 40, WANTED = 138;

  window.Studio.Gallery = class {
    // fetchPage(first) resolves to {first, total, version, items}; onPick(item, index).
    constructor(fetchPage, onPick) {
      this.fetchPage = fetchPage;
      this.onPick = onPick;
      this.total = 0;
      this.pages = new Map(); // page's number -> items
      this.asked = new Set();
      this.cards = new Map(); // index -> card
      this.spare = [];
      this.selected = null; // id
      this.round = 0; // answers of an older filter are not taken
      this.space = h("div", { class: "st-gallery-space" });
      this.none = h("p", { class: "st-gallery-none st-muted", hidden: true });
      this.node = h("div", { class: "st-gallery", role: "group", "aria-label": "Pictures", tabindex: "-1" }, this.space, this.none);
      this.node.addEventListener("scroll", () => this.soon(), { passive: true });
      new ResizeObserver(() => this.soon()).observe(this.node);
    }

    // Ask anew: after a change the same place stays in sight, after a new filter the top is shown.
    async reload(toTop) {
      this.round += 1;
      const round = this.round;
      const first = toTop ? 0 : Math.floor(this.firstInSight() / PAGE) * PAGE;
      const answer = await this.fetchPage(first);
      if (!answer || round !== this.round) return;
      this.pages.clear();
      this.asked.clear();
      this.take(answer);
      if (toTop) this.node.scrollTop = 0;
      this.draw(true);
    }

    take(answer) {
      this.total = answer.total;
      this.pages.set(Math.floor(answer.first / PAGE), answer.items);
      while (this.pages.size > KEPT_PAGES) {
        const here = this.firstInSight() / PAGE;
        const farthest = [...this.pages.keys()].reduce((a, b) => (Math.abs(a - here) > Math.abs(b - here) ? a : b));
        this.pages.delete(farthest);
      }
    }

    item(index) {
      const page = this.pages.get(Math.floor(index / PAGE));
      return page ? page[index % PAGE] : undefined;
    }

    async itemAt(index) {
      if (!this.item(index)) await this.need(Math.floor(index / PAGE));
      return this.item(index);
    }

    async need(page) {
      if (this.pages.has(page) || this.asked.has(page)) return;
      this.asked.add(page);
      const round = this.round;
      const answer = await this.fetchPage(page * PAGE);
      this.asked.delete(page);
      if (!answer || round !== this.round) return;
      this.take(answer);
      this.draw();
    }

    measure() {
      const width = this.space.clientWidth;
      this.columns = Math.max(2, Math.floor((width + GAP) / (WANTED + GAP)));
      this.side = (width - GAP * (this.columns - 1)) / this.columns;
      this.rowHeight = this.side + TEXT + GAP;
    }

    firstInSight() {
      if (!this.rowHeight) return 0;
      return Math.max(0, Math.floor(this.node.scrollTop / this.rowHeight)) * this.columns;
    }

    soon() {
      if (this.waiting) return;
      this.waiting = requestAnimationFrame(() => {
        this.waiting = 0;
        this.draw();
      });
    }

    draw(renew) {
      if (!this.node.clientWidth) return;
      this.measure();
      const rows = Math.ceil(this.total / this.columns);
      this.space.style.height = `${Math.max(0, rows * this.rowHeight - GAP)}px`;
      this.none.hidden = this.total > 0;
      const top = Math.floor(this.node.scrollTop / this.rowHeight) - MARGIN_ROWS;
      const shown = Math.ceil(this.node.clientHeight / this.rowHeight) + 2 * MARGIN_ROWS;
      const from = Math.max(0, top * this.columns);
      const to = Math.min(this.total, (top + shown + 1) * this.columns);
      for (const [index, card] of this.cards) {
        if (index < from || index >= to) this.drop(index, card);
      }
      for (let index = from; index < to; index += 1) this.place(index, renew);
      for (let page = Math.floor(from / PAGE); page * PAGE < to; page += 1) this.need(page);
    }

    drop(index, card) {
      this.cards.delete(index);
      card.image.removeAttribute("src");
      card.node.remove();
      if (this.spare.length < 60) this.spare.push(card);
    }

    place(index, renew) {
      let card = this.cards.get(index);
      if (!card) {
        card = this.spare.pop() || this.newCard();
        card.index = index;
        card.shown = null;
        this.cards.set(index, card);
        this.space.append(card.node);
      }
      const left = (index % this.columns) * (this.side + GAP);
      const down = Math.floor(index / this.columns) * this.rowHeight;
      card.node.style.transform = `translate(${left}px, ${down}px)`;
      card.node.style.width = `${this.side}px`;
      const item = this.item(index);
      if (!item) return this.blank(card);
      if (card.shown !== item || renew) this.fill(card, item);
      card.node.setAttribute("aria-current", String(item.id === this.selected));
    }

    newCard() {
      const card = { image: h("img", { alt: "", draggable: "false", decoding: "async" }) };
      card.badges = h("span", { class: "st-badges" });
      card.mask = h("span", { class: "st-mask-mark", title: "Has a mask", hidden: true }, "mask");
      card.text = h("span", { class: "st-gallery-text" });
      card.node = h("button", { class: "st-gallery-card", type: "button" },
        h("span", { class: "st-gallery-frame" }, card.image, card.badges, card.mask), card.text);
      card.node.addEventListener("click", () => {
        const item = this.item(card.index);
        if (item) this.onPick(item, card.index);
      });
      return card;
    }

    blank(card) {
      card.shown = null;
      card.image.removeAttribute("src");
      card.badges.replaceChildren();
      card.mask.hidden = true;
      setText(card.text, "");
      card.node.disabled = true;
      card.node.setAttribute("aria-label", "Loading");
    }

    fill(card, item) {
      card.shown = item;
      card.node.disabled = false;
      card.node.dataset.id = item.id;
      card.node.title = item.caption || item.name;
      const told = [item.name, ...item.badges, item.caption || "no caption"].join(", ");
      card.node.setAttribute("aria-label", told);
      if (item.thumbnail && card.image.getAttribute("src") !== item.thumbnail) {
        card.image.classList.remove("st-unreadable");
        card.image.src = item.thumbnail;
      }
      card.badges.replaceChildren(
        ...(item.is_draft ? [h("span", { class: "st-badge st-draft" }, "draft")] : []),
        ...item.badges.map((text) => h("span", { class: item.is_bad ? "st-badge st-grave" : "st-badge" }, text)));
      card.mask.hidden = !item.has_mask;
      setText(card.text, item.caption || "no caption");
      card.text.classList.toggle("st-missing", !item.caption);
    }

    select(id) {
      this.selected = id;
      for (const card of this.cards.values()) {
        card.node.setAttribute("aria-current", String(Boolean(card.shown) && card.shown.id === id));
      }
    }

    show(index) {
      if (!this.rowHeight) return;
      const top = Math.floor(index / this.columns) * this.rowHeight;
      const box = this.node;
      if (top < box.scrollTop) box.scrollTop = top;
      else if (top + this.rowHeight > box.scrollTop + box.clientHeight) {
        box.scrollTop = top + this.rowHeight - box.clientHeight;
      }
    }

    sayNone(text) {
      setText(this.none, text);
    }

    count() {
      return number(this.total);
    }
  };
})();
