// The loss chart: a canvas that draws raw values pale, smoothed ones solid, and marks previews.
"use strict";
(() => {
  const { h, number } = window.Studio;
  const LEFT = 44, RIGHT = 14, TOP = 10, BOTTOM = 40;

  const niceStep = (span, wanted) => {
    const rough = span / Math.max(1, wanted);
    const power = 10 ** Math.floor(Math.log10(rough));
    return [1, 2, 2.5, 5, 10].map((n) => n * power).find((n) => n >= rough);
  };

  const quantile = (sorted, share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];

  const nearest = (list, wanted, of) =>
    list.reduce((best, item) => (best === null || Math.abs(of(item) - wanted) < Math.abs(of(best) - wanted) ? item : best), null);

  window.Studio.LossChart = class {
    // onPick(step): a preview's step was chosen by clicking.
    constructor(onPick) {
      this.onPick = onPick;
      this.data = null;
      this.hover = null;
      this.canvas = h("canvas", { role: "img", tabindex: "-1" });
      this.tip = h("div", { class: "st-tip", hidden: true });
      this.node = h("div", { class: "st-chart" }, this.canvas, this.tip);
      new ResizeObserver(() => this.draw()).observe(this.node);
      window.addEventListener("studio-theme", () => this.draw());
      this.canvas.addEventListener("pointermove", (event) => this.point(event));
      this.canvas.addEventListener("pointerleave", () => this.point(null));
      this.canvas.addEventListener("click", (event) => {
        const preview = this.previewAt(this.stepAt(event));
        if (preview) this.onPick(preview.step);
      });
    }

    // data: {curve, previews, total, chosen, live}
    show(data) {
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

    span() {
      const { curve, total } = this.data;
      const newest = curve.steps.length ? curve.steps[curve.steps.length - 1] : 0;
      return Math.max(total, newest, 10);
    }

    range() {
      const { low, high, smooth } = this.data.curve;
      if (!low.length) return [0, 1];
      const tops = [...high].sort((a, b) => a - b);
      const bottoms = [...low].sort((a, b) => a - b);
      const top = Math.max(quantile(tops, 0.985), Math.max(...smooth.slice(Math.min(5, smooth.length - 1))));
      const bottom = Math.min(quantile(bottoms, 0.01), Math.min(...smooth));
      const pad = (top - bottom || Math.abs(top) || 1) * 0.08;
      return [Math.max(0, bottom - pad), top + pad];
    }

    stepAt(event) {
      const box = this.canvas.getBoundingClientRect();
      const width = box.width - LEFT - RIGHT;
      return ((event.clientX - box.left - LEFT) / width) * this.span();
    }

    previewAt(step) {
      return this.data ? nearest(this.data.previews, step, (p) => p.step) : null;
    }

    point(event) {
      const steps = this.data ? this.data.curve.steps : [];
      this.hover = event && steps.length ? nearest([...steps.keys()], this.stepAt(event), (i) => steps[i]) : null;
      this.draw();
      this.showTip();
    }

    showTip() {
      this.tip.hidden = this.hover === null;
      if (this.hover === null) return;
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

    x(step) {
      return LEFT + (step / this.span()) * (this.node.clientWidth - LEFT - RIGHT);
    }

    draw() {
      const width = this.node.clientWidth, height = this.node.clientHeight;
      if (!this.data || width < 80 || height < 80) return;
      const scale = window.devicePixelRatio || 1;
      if (this.canvas.width !== Math.round(width * scale) || this.canvas.height !== Math.round(height * scale)) {
        this.canvas.width = Math.round(width * scale);
        this.canvas.height = Math.round(height * scale);
      }
      const pen = this.canvas.getContext("2d");
      const style = getComputedStyle(this.node);
      const colour = (name) => style.getPropertyValue(`--st-${name}`).trim();
      pen.setTransform(scale, 0, 0, scale, 0, 0);
      pen.clearRect(0, 0, width, height);
      pen.font = `12px ${style.fontFamily}`;
      const [bottom, top] = this.range();
      const plot = height - TOP - BOTTOM;
      const y = (value) => TOP + (1 - (value - bottom) / (top - bottom)) * plot;

      this.grid(pen, colour, width, bottom, top, y);
      pen.save();
      pen.beginPath();
      pen.rect(LEFT, TOP, width - LEFT - RIGHT, plot);
      pen.clip();
      this.lines(pen, colour, y);
      pen.restore();
      this.marks(pen, colour, height, y);
    }

    grid(pen, colour, width, bottom, top, y) {
      pen.fillStyle = colour("muted");
      pen.strokeStyle = colour("grid");
      pen.lineWidth = 1;
      const rise = niceStep(top - bottom, 4);
      const digits = Math.max(0, Math.min(6, Math.ceil(-Math.log10(rise)) + (rise.toString().includes("25") ? 1 : 0)));
      pen.textAlign = "right";
      pen.textBaseline = "middle";
      for (let value = Math.ceil(bottom / rise) * rise; value <= top; value += rise) {
        const at = Math.round(y(value)) + 0.5;
        pen.beginPath();
        pen.moveTo(LEFT, at);
        pen.lineTo(width - RIGHT, at);
        pen.stroke();
        pen.fillText(value.toFixed(digits), LEFT - 8, at);
      }
      pen.textAlign = "center";
      pen.textBaseline = "alphabetic";
      const span = this.span();
      const run = Math.max(1, niceStep(span, Math.min(8, width / 110)));
      const ticks = [];
      for (let step = 0; step < span && this.x(span) - this.x(step) > 46; step += run) ticks.push(step);
      for (const step of [...ticks, span]) {
        const half = pen.measureText(number(step)).width / 2;
        const at = Math.min(width - half - 2, Math.max(half + 2, this.x(step)));
        pen.fillText(number(step), at, this.node.clientHeight - 6);
      }
    }

    lines(pen, colour, y) {
      const { steps, low, high, smooth } = this.data.curve;
      if (!steps.length) return;
      pen.lineJoin = "round";
      pen.strokeStyle = colour("raw");
      pen.lineWidth = 1;
      pen.beginPath();
      steps.forEach((step, i) => {
        const at = this.x(step);
        if (i === 0) pen.moveTo(at, y(low[i]));
        else pen.lineTo(at, y(low[i]));
        if (high[i] !== low[i]) pen.lineTo(at, y(high[i]));
      });
      pen.stroke();
      pen.strokeStyle = colour("accent");
      pen.lineWidth = 2;
      pen.beginPath();
      steps.forEach((step, i) => (i ? pen.lineTo(this.x(step), y(smooth[i])) : pen.moveTo(this.x(step), y(smooth[i]))));
      pen.stroke();
    }

    marks(pen, colour, height, y) {
      const { curve, previews, chosen, live } = this.data;
      const base = height - BOTTOM + 8;
      for (const preview of previews) {
        const at = this.x(preview.step);
        pen.fillStyle = colour(preview.step === chosen ? "text" : "mark");
        pen.beginPath();
        pen.moveTo(at, base);
        pen.lineTo(at - 4.5, base + 8);
        pen.lineTo(at + 4.5, base + 8);
        pen.fill();
        if (preview.step === chosen && previews.length > 1) {
          pen.strokeStyle = colour("mark");
          pen.lineWidth = 1;
          pen.beginPath();
          pen.moveTo(Math.round(at) + 0.5, TOP);
          pen.lineTo(Math.round(at) + 0.5, base);
          pen.stroke();
        }
      }
      const last = curve.steps.length - 1;
      if (live && last >= 0) this.dot(pen, colour, this.x(curve.steps[last]), y(curve.smooth[last]));
      if (this.hover !== null && this.hover <= last) {
        const at = Math.round(this.x(curve.steps[this.hover])) + 0.5;
        pen.strokeStyle = colour("muted");
        pen.setLineDash([2, 3]);
        pen.beginPath();
        pen.moveTo(at, TOP);
        pen.lineTo(at, base);
        pen.stroke();
        pen.setLineDash([]);
        this.dot(pen, colour, at, y(curve.smooth[this.hover]));
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
