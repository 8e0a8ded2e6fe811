"use strict";
(() => {
  const report = JSON.parse(document.getElementById("report").textContent);
  const byId = (id) => document.getElementById(id);
  const [row, video, play, slider, position, values] =
    ["row", "video", "play", "frame", "position", "values"].map(byId);
  const panes = [0, 1, 2].map((number) => byId(`pane-${number}`));
  const urls = new Map();
  let numFrames = 1;
  let chosen = 0; // counts choices, so that a video that loads late does not disturb the next one

  function url(name) {
    if (!urls.has(name)) {
      const bytes = Uint8Array.from(atob(byId(name).textContent), (letter) => letter.charCodeAt(0));
      urls.set(name, URL.createObjectURL(new Blob([bytes], { type: "video/mp4" })));
    }
    return urls.get(name);
  }

  const shown = () => report.rows[row.value][video.value];
  const time = (frame) => (frame + 0.5) / report.fps; // the middle of a frame: rounding cannot miss it
  const frameAt = (seconds) => Math.min(numFrames - 1, Math.max(0, Math.floor(seconds * report.fps + 1e-3)));
  const isPlaying = () => !panes[0].paused;

  function tell(frame) {
    const sample = shown();
    slider.value = frame;
    position.textContent = `${frame + 1} / ${numFrames}`;
    const figures = Object.entries(sample.metrics).map(([name, mean]) => {
      const here = sample.frames[name]?.[frame];
      return here === undefined ? `${name} ${mean}` : `${name} ${here} here, ${mean} in all`;
    });
    values.textContent = [`${sample.steps} steps`, `${sample.speedup}×`, ...figures].join(" · ");
  }

  function seek(frame) {
    pause();
    for (const pane of panes) pane.currentTime = time(frame);
    tell(frame);
  }

  function pause() {
    for (const pane of panes) pane.pause();
    play.textContent = "Play";
  }

  async function start() {
    play.textContent = "Pause";
    for (const pane of panes) pane.currentTime = panes[0].currentTime;
    try {
      await Promise.all(panes.map((pane) => pane.play()));
    } catch (problem) { // another video was chosen, or it was paused, before it began
      if (problem.name !== "AbortError") throw problem;
    }
  }

  // The first pane leads; the others are set right when they are more than half a frame off.
  function follow() {
    if (isPlaying()) {
      for (const pane of panes.slice(1)) {
        const lag = Math.abs(pane.currentTime - panes[0].currentTime);
        if (lag > 0.5 / report.fps && !pane.seeking) pane.currentTime = panes[0].currentTime;
      }
      tell(frameAt(panes[0].currentTime));
    }
    requestAnimationFrame(follow);
  }

  async function choose() {
    pause();
    const mine = ++chosen;
    const ready = panes.map((pane, number) => new Promise((done) => {
      pane.addEventListener("loadeddata", done, { once: true });
      pane.src = url(shown().videos[number]);
    }));
    await Promise.all(ready);
    if (mine !== chosen) return;
    numFrames = Math.max(1, Math.round(panes[0].duration * report.fps));
    slider.max = numFrames - 1;
    seek(0);
  }

  function list() {
    const samples = report.rows[row.value];
    video.replaceChildren(...samples.map((sample, number) => {
      const [[metric, value] = ["", ""]] = Object.entries(sample.metrics);
      return new Option(`${number + 1}. ${metric} ${value}: ${sample.prompt}, seed ${sample.seed}`, number);
    }));
    return choose();
  }

  row.replaceChildren(...Object.keys(report.rows).map((name) => new Option(name, name)));
  row.addEventListener("change", list);
  video.addEventListener("change", choose);
  play.addEventListener("click", () => (isPlaying() ? pause() : start()));
  slider.addEventListener("input", () => seek(Number(slider.value)));
  byId("back").addEventListener("click", () => seek(Math.max(0, Number(slider.value) - 1)));
  byId("forward").addEventListener("click", () => seek(Math.min(numFrames - 1, Number(slider.value) + 1)));
  list();
  requestAnimationFrame(follow);
})();
