// What the page has beside Gradio's own components: players with waveform and mel spectrogram, the comparison of two takes, and errors next to
// the controls that they are about. Custom elements, so that they come to life wherever Gradio puts their HTML.
"use strict";

const FORMATS = [["wav", "WAV 16 bit"], ["wav24", "WAV 24 bit"], ["wav32f", "WAV 32 bit float"], ["flac", "FLAC"], ["mp3", "MP3"], ["ogg", "Ogg Vorbis"], ["opus", "Ogg Opus"]];
const STYLE = new CSSStyleSheet();
fetch("/page/player.css").then((answer) => answer.text()).then((text) => STYLE.replace(text));
let playing = null; // one song at a time

const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// Gradio changes attributes of what is there and empties it: contents stand in a shadow tree, and follow the attributes.
class Shown extends HTMLElement {
  connectedCallback() {
    if (!this.shadowRoot) this.attachShadow({ mode: "open" }).adoptedStyleSheets = [STYLE];
    this.build();
  }

  attributeChangedCallback(name, before, now) {
    if (!this.isConnected || !this.shadowRoot || before === now || this.stale) return;
    this.stale = true; // several attributes change together: build once
    queueMicrotask(() => { this.stale = false; if (this.isConnected) this.build(); });
  }
}

class SongPlayer extends Shown {
  static observedAttributes = ["name", "live", "label", "facts", "key"];

  build() {
    const before = this.audio && this.keyed === this.getAttribute("key") ? { time: this.audio.currentTime, on: !this.audio.paused } : null;
    this.stop();
    this.keyed = this.getAttribute("key");
    this.removeAttribute("ready");
    this.name = this.getAttribute("name") || "";
    this.live = this.getAttribute("live") || "";
    this.label = this.getAttribute("label") || "Song";
    this.duration = Number(this.getAttribute("duration")) || 0;
    this.peaks = [];
    this.audio = make("audio", { preload: this.live ? "auto" : "none", src: this.live || `/media/audio/${this.name}` });
    this.button = make("button", { type: "button", className: "player-play", onclick: () => this.toggle() });
    this.time = make("span", { className: "player-time" });
    this.canvas = make("canvas", { height: 64, className: "player-wave" });
    this.picture = make("img", { className: "player-mel", alt: `Mel spectrogram of ${this.label}`, hidden: true });
    this.line = make("div", { className: "player-line" });
    this.screen = make("div", { className: "player-screen", role: "slider", tabIndex: 0 }, this.canvas, this.picture, this.line);
    this.screen.setAttribute("aria-label", `Position in ${this.label}, seconds`);
    const head = make("div", { className: "player-head" }, this.button, make("div", { className: "player-title" }, make("strong", {}, this.label), make("span", {}, this.getAttribute("facts") || "")), this.time);
    this.shadowRoot.replaceChildren(head, this.screen, this.audio);
    if (this.name && !this.hasAttribute("plain")) this.shadowRoot.append(this.downloads());
    if (this.hasAttribute("pick")) this.addPicking();
    else this.screen.addEventListener("click", (event) => this.seek(this.secondsAt(event)));
    this.screen.addEventListener("keydown", (event) => this.onKey(event));
    for (const kind of ["play", "pause", "timeupdate", "durationchange", "ended", "error"]) this.audio.addEventListener(kind, () => this.show());
    this.resizing = new ResizeObserver(() => this.draw());
    this.resizing.observe(this.screen);
    this.show();
    if (this.name) this.load(this.name);
    if (before && before.time > 0) this.seek(before.time); // the finished song goes on where the growing one was
    if (before && before.on) this.play();
  }

  disconnectedCallback() {
    this.stop();
  }

  stop() {
    this.resizing?.disconnect();
    this.audio?.pause();
    document.removeEventListener("input", this.redraw);
  }

  async load(name) {
    try {
      const answer = await fetch(`/media/peaks/${name}`);
      const found = await answer.json();
      if (!answer.ok) throw new Error(found.error);
      if (name !== this.name) return; // another song took the place meanwhile
      this.peaks = found.peaks;
      this.duration = found.duration;
      this.picture.src = `/media/mel/${this.name}`;
      this.picture.hidden = false;
      this.draw();
      this.show();
      this.setAttribute("ready", "");
    } catch (error) {
      this.shadowRoot.append(make("p", { className: "player-error", role: "alert" }, `This song cannot be shown: ${error.message}`));
    }
  }

  downloads() {
    const own = this.getAttribute("format");
    const links = FORMATS.map(([format, words]) =>
      make("a", { href: `/media/download/${this.name}${format === own ? "" : `?format=${format}`}`, download: "" }, format === own ? `${words} (as made)` : words));
    links.push(make("a", { href: `/media/receipt/${this.name}`, download: "" }, "Parameters (JSON)"));
    return make("details", { className: "player-downloads" }, make("summary", {}, "Download"), make("div", {}, ...links));
  }

  get length() {
    return this.duration || (Number.isFinite(this.audio.duration) ? this.audio.duration : 0);
  }

  toggle() {
    if (this.audio.paused) this.play();
    else this.audio.pause();
  }

  play() {
    if (playing && playing !== this.audio) playing.pause();
    playing = this.audio;
    this.audio.play().catch(() => this.show());
  }

  seek(seconds) {
    const wanted = Math.max(0, Math.min(seconds, this.length || seconds));
    const go = () => { this.audio.currentTime = wanted; this.show(); };
    if (this.audio.readyState > 0) go();
    else { this.audio.addEventListener("loadedmetadata", go, { once: true }); this.audio.preload = "auto"; this.audio.load(); }
  }

  secondsAt(event) {
    const box = this.screen.getBoundingClientRect();
    return Math.max(0, Math.min(1, (event.clientX - box.left) / box.width)) * this.length;
  }

  onKey(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageDown: -10, PageUp: 10 };
    if (event.key in steps) this.seek(this.audio.currentTime + steps[event.key]);
    else if (event.key === "Home") this.seek(0);
    else if (event.key === "End") this.seek(this.length);
    else if (event.key === " " || event.key === "Enter") this.toggle();
    else return;
    event.preventDefault();
  }

  show() {
    const at = this.audio.currentTime, on = !this.audio.paused;
    this.button.textContent = on ? "❚❚" : "▶";
    this.button.setAttribute("aria-label", `${on ? "Pause" : "Play"} ${this.label}`);
    this.time.textContent = this.length ? `${clock(at)} / ${clock(this.length)}` : clock(at);
    this.line.style.left = `${this.length ? Math.min(100, (100 * at) / this.length) : 0}%`;
    this.screen.setAttribute("aria-valuemin", "0");
    this.screen.setAttribute("aria-valuemax", this.length.toFixed(1));
    this.screen.setAttribute("aria-valuenow", at.toFixed(1));
    this.screen.setAttribute("aria-valuetext", `${clock(at)} of ${clock(this.length)}`);
  }

  draw() {
    const width = Math.max(1, Math.round(this.screen.clientWidth)), height = 64, scale = window.devicePixelRatio || 1;
    this.canvas.width = width * scale;
    this.canvas.height = height * scale;
    const paint = this.canvas.getContext("2d");
    paint.scale(scale, scale);
    const style = getComputedStyle(this);
    for (const [start, end] of this.regions?.() || []) {
      paint.fillStyle = style.getPropertyValue("--player-region");
      paint.fillRect((start / this.length) * width, 0, Math.max(2, ((end - start) / this.length) * width), height);
    }
    paint.fillStyle = style.getPropertyValue("--player-ink");
    for (let x = 0; x < width && this.peaks.length; x += 3) {
      const tall = Math.max(1, this.peaks[Math.floor((x / width) * this.peaks.length)] * (height - 6));
      paint.fillRect(x, (height - tall) / 2, 2, tall);
    }
  }

  // Choosing stretches: a drag sets the region, a drag with the shift key adds one. The fields of the page hold the values.
  addPicking() {
    const [start, end, more] = ["start", "end", "more"].map((which) => () => document.querySelector(`#${CSS.escape(this.getAttribute(`pick-${which}`))} ${which === "more" ? "textarea, input" : "input[type=number]"}`));
    const set = (field, value) => {
      const found = field();
      if (!found) return;
      Object.getOwnPropertyDescriptor(Object.getPrototypeOf(found), "value").set.call(found, value);
      for (const kind of ["input", "change", "blur"]) found.dispatchEvent(new Event(kind, { bubbles: true }));
    };
    this.regions = () => {
      if (!this.length || !start() || !end()) return [];
      const others = (more()?.value || "").split(",").map((part) => part.split("-").map(Number)).filter((pair) => pair.length === 2 && pair.every(Number.isFinite));
      return [[Number(start().value), Math.min(Number(end().value), this.length)], ...others];
    };
    let from = null, adding = false;
    this.screen.style.touchAction = "pan-y";
    this.screen.addEventListener("pointerdown", (event) => { from = this.secondsAt(event); adding = event.shiftKey; this.screen.setPointerCapture(event.pointerId); });
    this.screen.addEventListener("pointerup", (event) => {
      if (from === null) return;
      const to = this.secondsAt(event), pair = [Math.min(from, to), Math.max(from, to)].map((value) => value.toFixed(2));
      from = null;
      if (pair[1] - pair[0] < 0.2) return this.seek(to); // a click, not a drag
      if (adding) set(more, [more()?.value, pair.join("-")].filter(Boolean).join(", "));
      else { set(start, pair[0]); set(end, pair[1]); }
      this.draw();
    });
    this.redraw = () => this.draw();
    document.addEventListener("input", this.redraw);
    this.shadowRoot.append(make("p", { className: "player-hint" }, "Drag over the waveform to choose what is made anew; with Shift, to add another stretch."));
  }
}

// Two takes at the same place: one button changes between them while the music goes on.
class SongCompare extends Shown {
  static observedAttributes = ["a-name", "b-name"];

  build() {
    this.players = ["a", "b"].map((side) => {
      const player = make("song-player", { plain: "" });
      for (const name of ["name", "label", "facts", "duration"]) player.setAttribute(name, this.getAttribute(`${side}-${name}`) || "");
      return player;
    });
    const change = make("button", { type: "button", className: "compare-switch", onclick: () => this.change() }, "Switch between A and B");
    this.shadowRoot.replaceChildren(make("div", { className: "compare-sides" }, ...this.players), change);
  }

  change() {
    const [from, to] = this.players[0].audio.paused && !this.players[1].audio.paused ? [this.players[1], this.players[0]] : this.players;
    const at = from.audio.currentTime, on = !from.audio.paused;
    from.audio.pause();
    to.seek(at);
    if (on || at === 0) to.play();
  }
}

// Errors that the server found, each under its control.
class FieldErrors extends HTMLElement {
  static observedAttributes = ["errors"];

  connectedCallback() {
    this.place();
  }

  attributeChangedCallback() {
    if (this.isConnected) this.place();
  }

  place() {
    this.disconnectedCallback();
    this.placed = [];
    for (const [id, message] of JSON.parse(this.getAttribute("errors") || "[]")) {
      const control = document.getElementById(id);
      if (!control) continue;
      const text = make("p", { className: "field-error", id: `${id}-error` }, message);
      control.append(text);
      control.classList.add("has-error");
      for (const input of control.querySelectorAll("input, textarea")) {
        input.setAttribute("aria-invalid", "true");
        input.setAttribute("aria-describedby", text.id);
      }
      this.placed.push([control, text]);
    }
    this.placed[0]?.[0].scrollIntoView({ block: "center" });
  }

  disconnectedCallback() {
    for (const [control, text] of this.placed || []) {
      text.remove();
      control.classList.remove("has-error");
      for (const input of control.querySelectorAll("[aria-invalid]")) { input.removeAttribute("aria-invalid"); input.removeAttribute("aria-describedby"); }
    }
  }
}

customElements.define("song-player", SongPlayer);
customElements.define("song-compare", SongCompare);
customElements.define("field-errors", FieldErrors);

// Arrow keys go from tab to tab, Enter opens one: Gradio leaves them to the Tab key.
document.addEventListener("keydown", (event) => {
  const tab = event.target.closest?.("[role=tab]"), step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!tab || !step) return;
  const tabs = [...tab.parentElement.querySelectorAll("[role=tab]")].filter((other) => other.checkVisibility());
  tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length].focus();
  event.preventDefault();
});
