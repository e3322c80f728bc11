// Drawing on a picture: a box to crop to, and a mask that is painted. Only boxes and masks are sent.
"use strict";
(() => {
  const { h, setText } = window.Studio;
  const MASK_SIDE = 1024, MAX_SENT = 900000, HANDLE = 14;
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  const shareOf = (node, event) => {
    const box = node.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };

  // A box over the picture in shares of it: drawn, moved, resized at its corners, or by arrow keys.
  window.Studio.CropBox = class {
    constructor(width, height, start, onChange) {
      this.width = width;
      this.height = height;
      this.box = start;
      this.onChange = onChange;
      this.frame = h("div", { class: "st-crop-frame" },
        ...["nw", "ne", "sw", "se"].map((at) => h("i", { class: `st-handle st-${at}`, "data-at": at })));
      this.node = h("div", {
        class: "st-over st-crop", tabindex: "0", role: "application",
        "aria-label": "Crop box. Arrow keys move it, Shift and arrow keys resize it.",
      }, this.frame);
      this.node.addEventListener("pointerdown", (event) => this.begin(event));
      this.node.addEventListener("pointermove", (event) => this.drag(event));
      this.node.addEventListener("pointerup", () => (this.held = null));
      this.node.addEventListener("keydown", (event) => this.key(event));
      this.show();
    }

    begin(event) {
      event.preventDefault();
      this.node.focus();
      this.node.setPointerCapture(event.pointerId);
      const [x, y] = shareOf(this.node, event);
      const [left, top, right, bottom] = this.box;
      const near = [HANDLE / this.node.clientWidth, HANDLE / this.node.clientHeight];
      const across = Math.abs(x - left) < near[0] ? "w" : Math.abs(x - right) < near[0] ? "e" : "";
      const down = Math.abs(y - top) < near[1] ? "n" : Math.abs(y - bottom) < near[1] ? "s" : "";
      const inside = x > left && x < right && y > top && y < bottom;
      const whole = right - left > 0.999 && bottom - top > 0.999;
      if (across && down) this.held = { corner: down + across };
      else if (inside && !whole) this.held = { from: [x, y], box: [...this.box] };
      else this.held = { start: [x, y] };
    }

    drag(event) {
      if (!this.held) return;
      const [x, y] = shareOf(this.node, event).map((value) => clamp(value, 0, 1));
      const { start, from, box, corner } = this.held;
      if (start) {
        this.set([Math.min(start[0], x), Math.min(start[1], y), Math.max(start[0], x), Math.max(start[1], y)]);
      } else if (from) this.move(box, x - from[0], y - from[1]);
      else {
        const next = [...this.box];
        next[corner.includes("w") ? 0 : 2] = x;
        next[corner.includes("n") ? 1 : 3] = y;
        this.set(next);
      }
    }

    move(box, across, down) {
      const dx = clamp(across, -box[0], 1 - box[2]), dy = clamp(down, -box[1], 1 - box[3]);
      this.set([box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy]);
    }

    key(event) {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      const [dx, dy] = step.map((value) => value * 0.01);
      if (!event.shiftKey) return this.move(this.box, dx, dy);
      this.set([this.box[0], this.box[1], clamp(this.box[2] + dx, 0, 1), clamp(this.box[3] + dy, 0, 1)]);
    }

    set(box) {
      const least = [8 / this.width, 8 / this.height];
      if (box[2] - box[0] < least[0] || box[3] - box[1] < least[1]) return;
      this.box = box;
      this.show();
    }

    show() {
      const [left, top, right, bottom] = this.box.map((value) => `${value * 100}%`);
      this.frame.style.cssText = `left:${left};top:${top};width:calc(${right} - ${left});height:calc(${bottom} - ${top})`;
      const size = [(this.box[2] - this.box[0]) * this.width, (this.box[3] - this.box[1]) * this.height];
      this.onChange(size.map(Math.round));
    }
  };

  // A mask at most 1,024 px a side: what is painted is learned.
  window.Studio.MaskPainter = class {
    constructor(width, height) {
      const scale = Math.min(1, MASK_SIDE / Math.max(width, height));
      this.canvas = h("canvas", {
        class: "st-over st-painting", role: "img", tabindex: "0",
        "aria-label": "Mask: paint over what is to be learned",
        width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)),
      });
      this.node = this.canvas;
      this.ink = this.canvas.getContext("2d");
      this.erasing = false;
      this.brush = 0.06; // of the longer side
      this.canvas.addEventListener("pointerdown", (event) => {
        event.preventDefault();
        this.canvas.setPointerCapture(event.pointerId);
        this.last = null;
        this.held = true;
        this.stroke(event);
      });
      this.canvas.addEventListener("pointermove", (event) => this.held && this.stroke(event));
      this.canvas.addEventListener("pointerup", () => (this.held = false));
    }

    // What was kept before: its white is paint.
    async load(url) {
      const image = new Image();
      image.src = url;
      await image.decode();
      const { width, height } = this.canvas;
      this.ink.drawImage(image, 0, 0, width, height);
      const pixels = this.ink.getImageData(0, 0, width, height);
      for (let i = 0; i < pixels.data.length; i += 4) {
        pixels.data[i + 3] = pixels.data[i];
        pixels.data[i] = pixels.data[i + 1] = pixels.data[i + 2] = 255;
      }
      this.ink.putImageData(pixels, 0, 0);
    }

    stroke(event) {
      const [x, y] = shareOf(this.canvas, event);
      const at = [x * this.canvas.width, y * this.canvas.height];
      const from = this.last || at;
      this.ink.globalCompositeOperation = this.erasing ? "destination-out" : "source-over";
      this.ink.strokeStyle = "#fff";
      this.ink.lineCap = "round";
      this.ink.lineWidth = this.brush * Math.max(this.canvas.width, this.canvas.height);
      this.ink.beginPath();
      this.ink.moveTo(...from);
      this.ink.lineTo(at[0] + 0.01, at[1]);
      this.ink.stroke();
      this.last = at;
    }

    fill() {
      this.ink.globalCompositeOperation = "source-over";
      this.ink.fillStyle = "#fff";
      this.ink.fillRect(0, 0, this.canvas.width, this.canvas.height);
    }

    clear() {
      this.ink.clearRect(0, 0, this.canvas.width, this.canvas.height);
    }

    invert() {
      this.ink.globalCompositeOperation = "source-out";
      this.ink.fillStyle = "#fff";
      this.ink.fillRect(0, 0, this.canvas.width, this.canvas.height);
    }

    // White on black as a data URL, small enough to be sent.
    content() {
      for (let scale = 1; ; scale /= 2) {
        const whole = h("canvas", { width: Math.max(1, Math.round(this.canvas.width * scale)), height: Math.max(1, Math.round(this.canvas.height * scale)) });
        const ink = whole.getContext("2d");
        ink.fillStyle = "#000";
        ink.fillRect(0, 0, whole.width, whole.height);
        ink.drawImage(this.canvas, 0, 0, whole.width, whole.height);
        const url = whole.toDataURL("image/png");
        if (url.length < MAX_SENT || scale < 0.1) return url;
      }
    }
  };

  window.Studio.brushSlider = (painter) => {
    const shown = h("output", {}, "6%");
    const slider = h("input", {
      type: "range", min: "1", max: "30", value: "6", "aria-label": "Brush size",
      oninput: () => {
        painter.brush = Number(slider.value) / 100;
        setText(shown, `${slider.value}%`);
      },
    });
    return h("label", { class: "st-brush" }, "Brush", slider, shown);
  };
})();
