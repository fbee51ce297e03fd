// What can be chosen, and what happens then. results.js shows what comes back.

import { describe, filled, show } from "./results.js";

const byId = (id) => document.getElementById(id);

const state = {
  token: "",
  about: null,
  beginning: null, // the promise of it
  picture: null, // {name, alt, blob}: the one that was chosen last and can be used
  sent: new Map(), // bytes of the picture's payloads by model
  running: null, // AbortController of the request on its way
  again: null, // what "Try again" does
};

/** An answer of the server that says what is wrong. */
class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function request(path, options = {}) {
  const headers = { ...options.headers };
  if (state.token) headers.Authorization = `Bearer ${state.token}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
    if (response.ok) return response.headers.get("content-type").startsWith("application/json")
      ? await response.json() : await response.blob();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The server does not answer. It may have been stopped.");
  }
  const told = await response.json().catch(() => ({}));
  throw new Refused(response.status, told.error || `The server says ${response.status}.`);
}

// ---- what is said

function say(text) {
  byId("status").textContent = text;
}

/** Say what is wrong; `again` is what can be tried anew, if anything. */
function complain(text, again = null) {
  byId("trouble").textContent = text;
  byId("again").hidden = !again;
  state.again = again;
}

/** Say what is wrong with what the server was asked. */
function complainOf(error, what, again) {
  if (error.status === 401) {
    const wrong = state.token ? "This token is not the server's." : "This server asks for a token.";
    complain(wrong);
    state.again = again;
    byId("token-form").hidden = false;
    byId("token").focus();
    return;
  }
  const kept = state.picture && error.status === 0 ? " Your picture is kept here." : "";
  const passes = [0, 404, 408].includes(error.status) || error.status >= 500;
  complain(`${what}${error.message}${kept}`, passes ? again : null);
}

// ---- what can be chosen

async function begin() {
  complain("");
  try {
    state.about = await request("/page/about");
  } catch (error) {
    complainOf(error, "", begin);
    return;
  }
  listModels(state.about.models);
  await listSamples(state.about.samples);
}

function listModels(models) {
  const rows = models.map((model, number) => {
    const radio = filled("input", { type: "radio", name: "model", value: model.name });
    radio.checked = number === 0;
    radio.addEventListener("change", () => {
      offerRates();
      if (state.picture) answer(state.picture);
    });
    const words = filled("span", {}, filled("span", { class: "title" }, titleOf(model)));
    if (model.beta !== null) words.append(filled("small", {}, model.name));
    if (model.heads.length < 3) words.append(filled("small", {}, `${model.heads.join(", ")} only`));
    return filled("label", { class: "model" }, radio, words);
  });
  byId("model-list").replaceChildren(...rows);
  byId("beta-note").hidden = models.filter((model) => model.beta !== null).length < 2;
  byId("models").hidden = false;
  offerRates();
}

/** Show the slider of a model for every rate, at the middle of its rates, and of no other. */
function offerRates() {
  const { rates } = chosenModel();
  byId("rates").hidden = !rates;
  if (!rates) return;
  const slider = byId("rate");
  slider.max = rates.length - 1;
  slider.value = Math.floor((rates.length - 1) / 2);
  sayRate();
}

/** Return β where the slider stands, of a model for every rate; else null. */
function chosenRate() {
  const { rates } = chosenModel();
  return rates ? rates[byId("rate").value] : null;
}

function sayRate() {
  const words = `β ${chosenRate().toPrecision(3)}`;
  byId("rate-words").textContent = words;
  byId("rate").setAttribute("aria-valuetext", words);
}

async function listSamples(samples) {
  const tiles = samples.map((sample) => {
    const picture = filled("img", { alt: "", width: 96, height: 96 });
    const tile = filled("button", { type: "button", title: sample.alt }, picture, sample.title);
    tile.disabled = true;
    return { sample, picture, tile };
  });
  byId("sample-list").replaceChildren(...tiles.map(({ tile }) => tile));
  byId("samples").hidden = !samples.length;
  await Promise.all(tiles.map(async ({ sample, picture, tile }) => {
    try {
      const blob = await request(`/page/samples/${sample.name}`);
      picture.src = URL.createObjectURL(blob);
      tile.addEventListener("click", () => choose(sample.title, blob, sample.alt));
      tile.disabled = false;
    } catch {
      tile.remove(); // the rest of the page does without it
    }
  }));
}

function chosenModel() {
  const radio = document.querySelector("input[name=model]:checked");
  return state.about.models.find((model) => model.name === radio.value);
}

async function chooseFile(files) {
  if (!files.length) {
    complain("That is no file: drop a picture's file, or choose one.");
    return;
  }
  const [file] = files;
  let bytes;
  try {
    bytes = await file.arrayBuffer(); // kept, whatever becomes of the file
  } catch {
    complain(`${file.name}: the browser cannot read it. Is it a folder, or gone?`);
    return;
  }
  await choose(file.name, new Blob([bytes]));
}

async function choose(name, blob, alt = "") {
  if (!state.about) await state.beginning; // people may be quicker than the page
  if (!state.about) {
    complain("The models are not known yet.", begin);
    return;
  }
  const most = state.about.most_bytes;
  if (blob.size > most) {
    complain(`${name}: has ${(blob.size / 2 ** 20).toFixed(1)} MiB, and ${most / 2 ** 20} MiB are taken.`);
    return;
  }
  // where the answers are below all that can be chosen
  if (matchMedia("(max-width: 59.99rem)").matches) byId("result").scrollIntoView();
  await answer({ name, blob, alt });
}

// ---- what becomes of a picture

async function answer(picture) {
  state.running?.abort();
  const running = (state.running = new AbortController());
  const model = chosenModel();
  const rate = chosenRate();
  complain("");
  say(`Working on ${picture.name} …`);
  byId("result").setAttribute("aria-busy", "true");
  const start = performance.now();
  try {
    const asked = new URLSearchParams(rate === null ? { model: model.name } : { model: model.name, rate });
    const result = await request(`/page/answer?${asked}`, {
      method: "POST",
      body: picture.blob,
      headers: { "Content-Type": "application/octet-stream" },
      signal: running.signal,
    });
    result.whole = (performance.now() - start) / 1000;
    if (picture !== state.picture) state.sent.clear();
    state.picture = picture;
    state.sent.set(model.name, { title: titleOf(model, rate), bytes: result.payload_bytes });
    byId("nothing-yet").hidden = true;
    show(result, picture, payloadsInOrder());
    say(describe(result, picture.name));
  } catch (error) {
    if (error.name === "AbortError") return; // another one is on its way
    say("");
    fail(error, picture);
  } finally {
    if (state.running === running) byId("result").removeAttribute("aria-busy");
  }
}

/** Keep a picture that is not to blame; else the one before it, with its answers, stays. */
function fail(error, picture) {
  if (!(error instanceof Refused)) throw error;
  const isPicture = error.status === 413 || error.status === 415;
  if (!isPicture && picture !== state.picture) {
    state.picture = picture;
    state.sent.clear();
  }
  const again = error.status === 404 ? begin : () => answer(picture); // 404: it has other models now
  complainOf(error, isPicture ? `${picture.name}: ` : "", again);
}

/** Return the bytes of the picture's payloads, in the order in which the models are listed. */
function payloadsInOrder() {
  const names = state.about.models.map((model) => model.name).filter((name) => state.sent.has(name));
  return names.map((name) => [name, state.sent.get(name)]);
}

function titleOf(model, rate = null) {
  if (rate !== null) return `β ${rate.toPrecision(3)}`;
  if (model.rates) return "any rate";
  return model.beta === null ? model.name : `β ${model.beta}`;
}

// ---- what people do

byId("file").addEventListener("change", async (event) => {
  if (event.target.files.length) await chooseFile(event.target.files);
  event.target.value = ""; // the same file can be chosen again
});

// a picture that misses the place would take the page's
addEventListener("dragover", (event) => {
  event.preventDefault();
  byId("drop").classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) byId("drop").classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  byId("drop").classList.remove("over");
  chooseFile(event.dataTransfer.files);
});

byId("rate").addEventListener("input", sayRate);
byId("rate").addEventListener("change", () => state.picture && answer(state.picture));

byId("again").addEventListener("click", () => {
  byId("again").hidden = true;
  byId("result-title").focus();
  state.again?.();
});

byId("token-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  state.token = byId("token").value;
  byId("token").value = "";
  byId("token-form").hidden = true;
  byId("result-title").focus();
  const again = state.about ? state.again : begin;
  await again?.();
});

state.beginning = begin();
