// What all charts share: a sharp canvas, axes, grid; and the comparison's plain chart of lines.
"use strict";
(() => {
  const { h, number } = window.Studio;
  const LEFT = 44, RIGHT = 14, TOP = 10, BOTTOM = 40;

  const niceStep = (span, wanted) => {
    const rough = span / Math.max(1, wanted);
    const power = 10 ** Math.floor(Math.log10(rough));
    return [1, 2, 2.5, 5, 10].map((n) => n * power).find((n) => n >= rough);
  };

  window.Studio.quantile = (sorted, share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];

  window.Studio.Plot = class {
    static edges = { LEFT, RIGHT, TOP, BOTTOM };

    constructor() {
      this.canvas = h("canvas", { role: "img", tabindex: "-1" });
      this.node = h("div", { class: "st-chart" }, this.canvas);
      new ResizeObserver(() => this.draw()).observe(this.node);
      window.addEventListener("studio-theme", () => this.draw());
    }

    // Subclasses: ready(), span() -> [first, last step], range() -> [bottom, top], paint(pen, colour, y, height).

    x(step) {
      const [first, last] = this.span();
      return LEFT + ((step - first) / (last - first)) * (this.node.clientWidth - LEFT - RIGHT);
    }

    stepAt(event) {
      const box = this.canvas.getBoundingClientRect();
      const [first, last] = this.span();
      return first + ((event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT)) * (last - first);
    }

    draw() {
      const width = this.node.clientWidth, height = this.node.clientHeight;
      if (!this.ready() || width < 80 || height < 80) return;
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
      this.paint(pen, colour, y, height);
    }

    // Run `paint` with everything outside of the axes cut off.
    within(pen, height, paint) {
      pen.save();
      pen.beginPath();
      pen.rect(LEFT, TOP, this.node.clientWidth - LEFT - RIGHT, height - TOP - BOTTOM);
      pen.clip();
      paint();
      pen.restore();
    }

    grid(pen, colour, width, bottom, top, y) {
      pen.fillStyle = colour("muted");
      pen.strokeStyle = colour("grid");
      pen.lineWidth = 1;
      pen.setLineDash([]);
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
      const [first, last] = this.span();
      const run = Math.ceil(niceStep(last - first, Math.min(8, width / 110)));
      const ticks = [];
      for (let step = Math.ceil(first / run) * run; step < last && this.x(last) - this.x(step) > 46; step += run) ticks.push(step);
      for (const step of [...ticks, Math.round(last)]) {
        const half = pen.measureText(number(step)).width / 2;
        const at = Math.min(width - half - 2, Math.max(half + 2, this.x(step)));
        pen.fillText(number(step), at, this.node.clientHeight - 6);
      }
    }

    // points: [[step, value], …]
    line(pen, points, colour, width, dash, y) {
      pen.lineJoin = "round";
      pen.strokeStyle = colour;
      pen.lineWidth = width;
      pen.setLineDash(dash);
      pen.beginPath();
      points.forEach(([step, value], i) => (i ? pen.lineTo(this.x(step), y(value)) : pen.moveTo(this.x(step), y(value))));
      pen.stroke();
      pen.setLineDash([]);
    }
  };

  window.Studio.Curves = class extends window.Studio.Plot {
    // lines: [{points, colour, dash}]
    show(lines) {
      this.lines = lines;
      this.canvas.setAttribute("aria-label", `Smoothed loss of ${lines.length} runs, by step`);
      this.draw();
    }

    ready() {
      return Boolean(this.lines);
    }

    span() {
      return [0, Math.max(10, ...this.lines.map((line) => (line.points.at(-1) || [0])[0]))];
    }

    range() {
      const values = this.lines.flatMap((line) => line.points.slice(Math.min(5, line.points.length - 1)).map((p) => p[1]));
      if (!values.length) return [0, 1];
      const sorted = values.sort((a, b) => a - b);
      const top = window.Studio.quantile(sorted, 0.99), bottom = sorted[0];
      const pad = (top - bottom || Math.abs(top) || 1) * 0.08;
      return [Math.max(0, bottom - pad), top + pad];
    }

    paint(pen, colour, y, height) {
      this.within(pen, height, () => {
        for (const line of this.lines) this.line(pen, line.points, colour(line.colour), 2, line.dash, y);
      });
    }
  };
})();
