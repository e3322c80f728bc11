// The right side of the Dataset tab: one picture, its caption, and what is done to it.
"use strict";
(() => {
  const { h, setText, number } = window.Studio;

  const icon = (d) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    for (const [name, value] of Object.entries({ width: 18, height: 18, viewBox: "0 0 20 20", fill: "none", stroke: "currentColor", "stroke-width": 1.6, "stroke-linecap": "round", "stroke-linejoin": "round", "aria-hidden": "true" })) svg.setAttribute(name, value);
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", d);
    svg.append(path);
    return svg;
  };
  const TURN_LEFT = "M4 8.5h8a4.5 4.5 0 0 1 0 9H8M7 5 3.5 8.5 7 12";
  const TURN_RIGHT = "M16 8.5H8a4.5 4.5 0 0 0 0 9h4M13 5l3.5 3.5L13 12";

  window.Studio.DatasetSide = class {
    // ask(question, request) answers or says why not; changed(answer) tells that the folder changed.
    constructor(ask, changed) {
      this.ask = ask;
      this.changed = changed;
      this.shown = null;
      this.mode = null; // CropBox or MaskPainter
      this.build();
    }

    build() {
      const button = (text, onclick, props = {}) => h("button", { class: "st-button st-small", type: "button", onclick, ...props }, text);
      this.image = h("img", { alt: "" });
      this.unshown = h("p", { hidden: true }, "This picture can’t be shown.");
      this.frame = h("div", { class: "st-stand" }, this.image, this.unshown);
      this.name = h("h2", {});
      this.facts = h("span", { class: "st-muted" });
      this.tools = h("div", { class: "st-buttons st-d-tools" },
        button("Crop", () => this.crop(), { "data-do": "crop" }),
        button("Paint mask", () => this.paint(), { "data-do": "mask" }),
        h("button", { class: "st-button st-small st-square", type: "button", title: "Turn left", "aria-label": "Turn left", onclick: () => this.turn("left") }, icon(TURN_LEFT)),
        h("button", { class: "st-button st-small st-square", type: "button", title: "Turn right", "aria-label": "Turn right", onclick: () => this.turn("right") }, icon(TURN_RIGHT)),
        button("Take out", () => this.exclude(), { "data-do": "exclude", title: "Out of the dataset, not off the disk (X)" }));
      this.modeTools = h("div", { class: "st-buttons st-d-tools", hidden: true });
      this.problems = h("ul", { class: "st-problems" });
      this.draft = h("div", { class: "st-draft-box", hidden: true });
      this.text = h("textarea", { id: "st-caption", rows: "5", spellcheck: "true", oninput: () => this.typed() });
      this.tokens = h("span", { class: "st-tokens", role: "status" });
      this.where = h("span", { class: "st-muted st-where" });
      this.save = h("button", { class: "st-button st-primary", type: "button", onclick: () => this.saveCaption() }, "Save caption");
      this.empty = h("p", { class: "st-muted" }, "Choose a picture to see it large, with its caption.");
      this.body = h("div", { class: "st-side-body", hidden: true },
        this.frame, this.tools, this.modeTools,
        h("div", { class: "st-side-head" }, this.name, this.facts),
        this.problems, this.draft,
        h("div", { class: "st-caption-box" },
          h("label", { for: "st-caption" }, "Caption"), this.tokens, this.text, this.where,
          h("div", { class: "st-buttons" }, this.save)),
        h("p", { class: "st-keys st-side-keys", "aria-hidden": "true" },
          h("kbd", {}, "←"), h("kbd", {}, "→"), " picture ", h("kbd", {}, "E"), " edit ", h("kbd", {}, "X"), " take out"));
      this.node = h("aside", { class: "st-card st-data-side", "aria-label": "The picture" }, this.empty, this.body);
    }

    get dirty() {
      return Boolean(this.shown) && this.text.value !== this.shown.text;
    }

    clear() {
      this.leave();
      this.shown = null;
      this.body.hidden = true;
      this.empty.hidden = false;
    }

    async show(id) {
      await this.keepTyped();
      const answer = await this.ask("detail", { id });
      if (!answer) return null;
      this.leave();
      this.draw(answer);
      return answer;
    }

    draw(answer) {
      this.shown = answer;
      this.body.hidden = false;
      this.empty.hidden = true;
      this.image.classList.remove("st-unreadable");
      if (answer.picture) this.image.src = answer.picture;
      else this.image.removeAttribute("src");
      this.image.hidden = !answer.picture;
      this.unshown.hidden = Boolean(answer.picture);
      for (const each of this.tools.querySelectorAll("button:not([data-do=exclude])")) each.disabled = !answer.picture;
      this.image.alt = answer.text || answer.draft || answer.name;
      if (answer.width) this.frame.style.setProperty("--ratio", String(answer.width / answer.height));
      this.frame.style.aspectRatio = answer.width ? `${answer.width} / ${answer.height}` : "1";
      setText(this.name, answer.name);
      const size = answer.width ? `${number(answer.width)} × ${number(answer.height)} px` : "";
      const fit = answer.fit ? `trained at ${answer.fit.width} × ${answer.fit.height}` : "";
      const lost = answer.fit && answer.fit.crop_loss >= 0.005 ? `${Math.round(answer.fit.crop_loss * 100)}% cropped` : "";
      setText(this.facts, [size, fit, lost].filter(Boolean).join(" · "));
      this.drawMask(answer);
      this.problems.hidden = !answer.problems.length;
      this.problems.replaceChildren(...answer.problems.map((p) =>
        h("li", { class: `st-is-${p.severity}` }, h("b", {}, p.text), " ", p.fix)));
      this.drawDraft(answer);
      this.text.value = answer.text;
      this.text.placeholder = answer.text_problem || "What does the picture show?";
      this.drawTokens(answer.tokens);
      setText(this.where, answer.from ? `From ${answer.from}; saving writes ${answer.written_to}` : `Kept in ${answer.written_to}`);
      this.typed();
    }

    drawMask(answer) {
      this.frame.querySelectorAll(".st-mask-shown").forEach((node) => node.remove());
      if (answer.mask) {
        this.frame.append(h("img", { class: "st-over st-mask-shown", src: answer.mask, alt: "Its mask: the dark part is not learned" }));
      }
      setText(this.tools.querySelector("[data-do=mask]"), answer.mask ? "Edit mask" : "Paint mask");
    }

    drawDraft(answer) {
      this.draft.hidden = answer.draft === null;
      if (answer.draft === null) return;
      this.draft.replaceChildren(
        h("span", { class: "st-badge st-draft" }, "draft"), h("p", {}, answer.draft),
        h("div", { class: "st-buttons" },
          h("button", { class: "st-button st-small st-primary", type: "button", onclick: () => this.decide("keep") }, "Keep"),
          h("button", { class: "st-button st-small", type: "button", onclick: () => { this.text.value = answer.draft; this.typed(); this.text.focus(); } }, "Edit"),
          h("button", { class: "st-button st-small", type: "button", onclick: () => this.decide("discard") }, "Discard")));
    }

    async decide(what) {
      const answer = await this.ask(what, { ids: [this.shown.id] });
      if (answer) await this.changed(answer, this.shown.id);
    }

    drawTokens(told) {
      const counted = told.count !== null;
      const over = counted && told.count > told.limit;
      setText(this.tokens, counted ? `${number(told.count)} of ${told.limit} tokens` : "tokens can't be counted here");
      this.tokens.classList.toggle("st-over-limit", over);
      this.tokens.title = over ? `Programs that read ${told.limit} tokens stop before “${told.beyond}”` : "";
    }

    typed() {
      this.save.disabled = !this.dirty;
      clearTimeout(this.counting);
      if (!this.dirty) return;
      this.counting = setTimeout(async () => {
        const text = this.text.value;
        const told = await this.ask("tokens", { text });
        if (told && text === this.text.value) this.drawTokens(told);
      }, 250);
    }

    async saveCaption() {
      if (!this.shown) return;
      const { id } = this.shown;
      const text = this.text.value;
      const answer = await this.ask("save", { id, text });
      if (!answer) return;
      if (this.shown && this.shown.id === id) {
        this.shown.text = text;
        this.typed();
      }
      await this.changed(answer, id);
    }

    // What was typed is kept when another picture is shown; it can be undone like any change.
    async keepTyped() {
      if (this.dirty) await this.saveCaption();
    }

    edit() {
      if (this.body.hidden) return;
      this.text.focus();
      this.text.setSelectionRange(this.text.value.length, this.text.value.length);
    }

    async exclude() {
      if (!this.shown) return;
      const { id } = this.shown;
      this.text.value = this.shown.text;
      const answer = await this.ask("exclude", { id });
      if (answer) await this.changed(answer, null);
    }

    async turn(turn) {
      const { id } = this.shown;
      const answer = await this.ask("turn", { id, turn });
      if (answer) await this.changed(answer, id);
    }

    // ---- crop and mask ----
    enter(mode, tools) {
      this.leave();
      this.mode = mode;
      this.frame.classList.add("st-working");
      this.frame.append(mode.node);
      this.tools.hidden = true;
      this.modeTools.hidden = false;
      this.modeTools.replaceChildren(...tools);
      mode.node.focus({ preventScroll: true });
    }

    leave() {
      if (!this.mode) return false;
      this.mode.node.remove();
      this.mode = null;
      this.frame.classList.remove("st-working");
      this.tools.hidden = false;
      this.modeTools.hidden = true;
      return true;
    }

    crop() {
      const { id, width, height, fit } = this.shown;
      if (!width) return;
      const apply = h("button", { class: "st-button st-small st-primary", type: "button" });
      const box = new window.Studio.CropBox(width, height, fit ? [...fit.box] : [0, 0, 1, 1], (size) =>
        setText(apply, `Crop to ${number(size[0])} × ${number(size[1])} px`));
      apply.addEventListener("click", async () => {
        const answer = await this.ask("crop", { id, box: box.box });
        if (answer) await this.changed(answer, id);
      });
      this.enter(box, [apply, this.cancelButton()]);
    }

    async paint() {
      const { id, width, height, mask } = this.shown;
      if (!width) return;
      const painter = new window.Studio.MaskPainter(width, height);
      if (mask) await painter.load(mask).catch(() => {});
      const tool = (text, erasing) => h("button", {
        class: "st-button st-small", type: "button", "aria-pressed": String(!erasing),
        onclick: (event) => {
          painter.erasing = erasing;
          for (const other of event.target.parentNode.children) other.setAttribute("aria-pressed", String(other === event.target));
        },
      }, text);
      const small = (text, does) => h("button", { class: "st-button st-small", type: "button", onclick: does }, text);
      const send = async (png) => {
        const answer = await this.ask("mask", png ? { id, png } : { id });
        if (answer) await this.changed(answer, id);
      };
      this.enter(painter, [
        h("span", { class: "st-segments", role: "group", "aria-label": "Brush" }, tool("Paint", false), tool("Erase", true)),
        window.Studio.brushSlider(painter),
        small("Fill", () => painter.fill()), small("Clear", () => painter.clear()), small("Invert", () => painter.invert()),
        h("p", { class: "st-muted st-hint" }, "Paint over what is to be learned. Training looks at masks where “Masked loss” is on."),
        h("button", { class: "st-button st-small st-primary", type: "button", onclick: () => send(painter.content()) }, "Save mask"),
        ...(mask ? [small("Remove mask", () => send(null))] : []),
        this.cancelButton(),
      ]);
    }

    cancelButton() {
      return h("button", { class: "st-button st-small", type: "button", onclick: () => this.leave() }, "Cancel");
    }
  };
})();
