// The loss chart: raw values pale, smoothed ones solid, validation dashed with rings, previews as
// triangles. Hover shows what the model drew then, a click chooses it, dragging zooms.
"use strict";
(() => {
  const { h, number, quantile } = window.Studio;
  const { LEFT, TOP, BOTTOM } = window.Studio.Plot.edges;
  const DRAG_PX = 6; // less is a click

  const nearest = (list, wanted, of) =>
    list.reduce((best, item) => (best === null || Math.abs(of(item) - wanted) < Math.abs(of(best) - wanted) ? item : best), null);

  window.Studio.LossChart = class extends window.Studio.Plot {
    // onPick(step): a preview's step was chosen by clicking.
    constructor(onPick) {
      super();
      this.onPick = onPick;
      this.data = null;
      this.hover = null;
      this.zoom = null; // [first, last] step; null is the whole run
      this.pull = null; // where a drag began and is, in steps
      this.tip = h("div", { class: "st-tip", hidden: true });
      this.whole = h("button", { class: "st-button st-small", type: "button", hidden: true, onclick: () => this.zoomTo(null) }, "Whole run");
      this.node.append(this.tip);
      this.canvas.addEventListener("pointerdown", (event) => {
        if (event.button !== 0 || !this.data) return;
        this.pull = { from: this.stepAt(event), to: this.stepAt(event), x: event.clientX, moved: false };
        this.canvas.setPointerCapture(event.pointerId);
      });
      this.canvas.addEventListener("pointermove", (event) => this.point(event));
      this.canvas.addEventListener("pointerup", (event) => this.release(event));
      this.canvas.addEventListener("pointercancel", () => (this.pull = null));
      this.canvas.addEventListener("pointerleave", () => this.point(null));
    }

    // data: {run, curve, validation, best, previews, total, chosen, live}
    show(data) {
      if (this.data && this.data.run !== data.run) {
        this.zoomTo(null);
        this.hover = null;
        this.showTip();
      }
      this.data = data;
      const { steps, smooth } = data.curve;
      this.canvas.setAttribute(
        "aria-label",
        steps.length
          ? `Loss over ${number(steps[steps.length - 1])} steps, smoothed from ${smooth[0]} to ${smooth[smooth.length - 1]}`
          : "No loss yet",
      );
      this.draw();
    }

    ready() {
      return Boolean(this.data);
    }

    span() {
      if (this.zoom) return this.zoom;
      const { curve, total } = this.data;
      const newest = curve.steps.length ? curve.steps[curve.steps.length - 1] : 0;
      return [0, Math.max(total, newest, 10)];
    }

    range() {
      const { curve, validation } = this.data;
      const [first, last] = this.span();
      const seen = [...curve.steps.keys()].filter((i) => curve.steps[i] >= first && curve.steps[i] <= last);
      if (!seen.length) return [0, 1];
      const tops = seen.map((i) => curve.high[i]).sort((a, b) => a - b);
      const bottoms = seen.map((i) => curve.low[i]).sort((a, b) => a - b);
      const solid = seen.map((i) => curve.smooth[i]).slice(first === 0 ? Math.min(5, seen.length - 1) : 0);
      const dashed = validation.filter(([step]) => step >= first && step <= last).map(([, loss]) => loss);
      const top = Math.max(quantile(tops, 0.985), ...solid, ...dashed);
      const bottom = Math.min(quantile(bottoms, 0.01), ...solid, ...dashed);
      const pad = (top - bottom || Math.abs(top) || 1) * 0.08;
      return [Math.max(0, bottom - pad), top + pad];
    }

    previewAt(step) {
      return this.data ? nearest(this.data.previews, step, (p) => p.step) : null;
    }

    zoomTo(span) {
      this.zoom = span;
      this.whole.hidden = !span;
      if (this.data) this.draw();
    }

    point(event) {
      if (this.pull && event) {
        this.pull.to = this.stepAt(event);
        this.pull.moved = this.pull.moved || Math.abs(event.clientX - this.pull.x) > DRAG_PX;
      }
      const steps = this.data ? this.data.curve.steps : [];
      this.hover = event && steps.length ? nearest([...steps.keys()], this.stepAt(event), (i) => steps[i]) : null;
      this.draw();
      this.showTip();
    }

    release(event) {
      const pull = this.pull;
      this.pull = null;
      if (!pull) return;
      if (!pull.moved) {
        const preview = this.previewAt(this.stepAt(event));
        if (preview) this.onPick(preview.step);
        return;
      }
      const [first, last] = this.span();
      const from = Math.max(first, Math.min(pull.from, pull.to)), to = Math.min(last, Math.max(pull.from, pull.to));
      if (to - from >= 2) this.zoomTo([from, to]);
    }

    showTip() {
      this.tip.hidden = this.hover === null || Boolean(this.pull && this.pull.moved);
      if (this.tip.hidden) return;
      const { steps, low, high, smooth } = this.data.curve;
      const i = this.hover;
      const preview = this.previewAt(steps[i]);
      const raw = low[i] === high[i] ? `${low[i]}` : `${low[i]} to ${high[i]}`;
      this.tip.replaceChildren(
        ...(preview ? [h("img", { src: preview.pictures[0].thumbnail, alt: "" })] : []),
        h("span", {},
          h("b", {}, `Step ${number(steps[i])}`),
          h("span", {}, `smoothed ${smooth[i]}`),
          h("span", {}, `this step ${raw}`),
          preview ? h("span", {}, `preview from ${number(preview.step)}`) : null,
        ),
      );
      const x = this.x(steps[i]);
      const width = this.tip.offsetWidth;
      const left = x + 14 + width > this.node.clientWidth ? x - width - 14 : x + 14;
      this.tip.style.transform = `translate(${Math.max(4, left)}px, 10px)`;
    }

    paint(pen, colour, y, height) {
      this.within(pen, height, () => {
        if (this.pull && this.pull.moved) {
          const [from, to] = [this.pull.from, this.pull.to].map((step) => this.x(step));
          pen.fillStyle = colour("soft");
          pen.fillRect(Math.min(from, to), TOP, Math.abs(to - from), height - TOP - BOTTOM);
        }
        this.curves(pen, colour, y);
        this.rings(pen, colour, y);
      });
      this.marks(pen, colour, height, y);
    }

    curves(pen, colour, y) {
      const { steps, low, high, smooth } = this.data.curve;
      const raw = steps.flatMap((step, i) => (high[i] === low[i] ? [[step, low[i]]] : [[step, low[i]], [step, high[i]]]));
      this.line(pen, raw, colour("raw"), 1, [], y);
      this.line(pen, steps.map((step, i) => [step, smooth[i]]), colour("accent"), 2, [], y);
    }

    rings(pen, colour, y) {
      const { validation, best } = this.data;
      this.line(pen, validation, colour("second"), 2, [5, 4], y);
      for (const [step, loss] of validation) {
        pen.beginPath();
        pen.arc(this.x(step), y(loss), 4, 0, 7);
        pen.fillStyle = colour(step === best ? "second" : "card");
        pen.fill();
        pen.stroke();
        if (step !== best) continue;
        pen.fillStyle = colour("second");
        pen.font = pen.font.replace(/^(?:bold )?/, "bold ");
        pen.textAlign = "center";
        const at = [Math.max(LEFT + 34, this.x(step)), y(loss) - 12];
        pen.save();
        pen.strokeStyle = colour("card"); // a halo, so that it can be read over the curves
        pen.lineWidth = 4;
        pen.strokeText("best so far", ...at);
        pen.restore();
        pen.fillText("best so far", ...at);
        pen.font = pen.font.replace(/^(?:bold|700) /, "");
      }
    }

    marks(pen, colour, height, y) {
      const { curve, previews, chosen, live } = this.data;
      const [first, end] = this.span();
      const base = height - BOTTOM + 8;
      for (const preview of previews) {
        if (preview.step < first || preview.step > end) continue;
        const at = this.x(preview.step);
        pen.fillStyle = colour(preview.step === chosen ? "text" : "mark");
        pen.beginPath();
        pen.moveTo(at, base);
        pen.lineTo(at - 4.5, base + 8);
        pen.lineTo(at + 4.5, base + 8);
        pen.fill();
        if (preview.step === chosen && previews.length > 1) {
          this.line(pen, [[preview.step, 0], [preview.step, 1]], colour("mark"), 1, [], (end) => (end ? base : TOP));
        }
      }
      const last = curve.steps.length - 1;
      if (live && last >= 0 && curve.steps[last] <= end) this.dot(pen, colour, this.x(curve.steps[last]), y(curve.smooth[last]));
      if (this.hover !== null && this.hover <= last) {
        const step = curve.steps[this.hover];
        if (step < first || step > end) return;
        this.line(pen, [[step, 0], [step, 1]], colour("muted"), 1, [2, 3], (end) => (end ? base : TOP));
        this.dot(pen, colour, this.x(step), y(curve.smooth[this.hover]));
      }
    }

    dot(pen, colour, x, y) {
      pen.fillStyle = colour("ring");
      pen.beginPath();
      pen.arc(x, y, 8, 0, 7);
      pen.fill();
      pen.fillStyle = colour("accent");
      pen.beginPath();
      pen.arc(x, y, 4, 0, 7);
      pen.fill();
    }
  };
})();
