// Runs side by side: one chart, the newest previews in columns, the settings that differ.
"use strict";
(() => {
  const { h, number } = window.Studio;
  const DASHES = [[], [7, 4], [2, 3], [9, 3, 2, 3]]; // lines differ by dash as well as by colour
  const COLOURS = ["accent", "second", "third", "text"];

  window.Studio.comparison = (answer, close) => {
    const chart = new window.Studio.Curves();
    const runs = answer.runs;
    const key = (i) => h("i", { class: `st-line st-line-${i}` });
    const columns = { style: `--columns:${runs.length}` };
    const node = h("div", { class: "st-comparison" },
      h("div", { class: "st-head" },
        h("div", {}, h("h1", {}, `${runs.length} runs compared`),
          h("p", { class: "st-sub" }, runs.map((run) => run.title).join(" · "))),
        h("div", { class: "st-buttons" },
          h("button", { class: "st-button", type: "button", onclick: close }, "Back to the run"))),
      h("section", { class: "st-card" },
        h("div", { class: "st-card-head" }, h("h2", {}, "Loss, smoothed"),
          runs.map((run, i) => h("span", { class: "st-legend" }, key(i), run.title))),
        chart.node),
      h("section", { class: "st-card" },
        h("div", { class: "st-card-head" }, h("h2", {}, "What they draw")),
        h("div", { class: "st-columns", ...columns }, runs.map((run, i) =>
          h("div", {},
            h("b", {}, key(i), " ", run.title),
            h("p", { class: "st-muted" },
              `${number(run.step)} of ${number(run.total)} steps · loss ${run.loss}` +
              (run.best_step === null ? "" : ` · best at step ${number(run.best_step)}`)),
            run.pictures.length
              ? run.pictures.map((picture) => h("figure", {},
                h("img", { src: picture.url, alt: `${run.title}: ${picture.prompt}`, loading: "lazy" }),
                h("figcaption", {}, picture.prompt)))
              : h("p", { class: "st-muted" }, "No previews yet."))))),
      h("section", { class: "st-card" },
        h("div", { class: "st-card-head" }, h("h2", {}, "Settings that differ")),
        answer.settings.length
          ? h("div", { class: "st-scroll" }, h("table", { class: "st-table" },
            h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Setting"),
              runs.map((run) => h("th", { scope: "col" }, run.title)))),
            h("tbody", {}, answer.settings.map((row) => h("tr", {},
              h("th", { scope: "row" }, row.setting), row.values.map((value) => h("td", {}, value)))))))
          : h("p", { class: "st-muted" }, "None: they have the same settings.")));
    chart.show(runs.map((run, i) => ({
      points: run.curve.steps.map((step, at) => [step, run.curve.smooth[at]]),
      colour: COLOURS[i], dash: DASHES[i],
    })), "Step");
    return node;
  };
})();
