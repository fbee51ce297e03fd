// Shows what the server makes of a picture: the drawing, and all of it in tables.

const HEADS = {
  classification: "What is it?",
  detection: "Where is what?",
  segmentation: "Which pixels are what?",
};
const STAGES = {
  reading: "reading the file",
  queue: "waiting for its turn",
  fit: "fitting it to the encoder's input",
  analysis: "encoder",
  coding: "entropy coding",
  decoding: "entropy decoding",
  synthesis: "decoder",
  body: "shared body",
  classification: "classification head",
  detection: "detection head",
  segmentation: "segmentation head",
  drawing: "drawing the answers",
  comparing: "making JPEG and PNG files",
};
const SIDES = {
  device: "Edge half, in the place of a device",
  server: "Server half",
  page: "For this page only",
};
const FITS = { none: "", resized: "", cropped: ", cut out of its middle", padded: ", with a margin" };

const count = (number) => number.toLocaleString("en");
const bytes = (number) => `${count(number)} ${number === 1 ? "byte" : "bytes"}`;
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const milliseconds = (seconds) => (1000 * seconds).toFixed(1);
const size = ([width, height]) => `${width} × ${height}`;

/** Make an element with attributes and content. */
export function filled(tag, attributes = {}, ...content) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...content);
  return element;
}

/** Return in a sentence or two what came of a picture. */
export function describe(result, name) {
  const heads = Object.keys(HEADS).filter((head) => result.in_words[head] !== undefined);
  const words = heads.map((head) => ` ${head[0].toUpperCase()}${head.slice(1)}: ${result.in_words[head]}.`);
  return `${name}, in a payload of ${bytes(result.payload_bytes)}.${words.join("")}`;
}

/** Show what came of a picture; `payloads` are all of that picture, each a model and its bytes. */
export function show(result, picture, payloads) {
  const byId = (id) => document.getElementById(id);
  const image = byId("picture");
  image.src = result.picture;
  [image.width, image.height] = result.picture_size;
  image.alt = `${picture.alt || "A picture"}, with its answers drawn. ${describe(result, picture.name)}`;
  byId("caption").textContent = captionOf(result, picture);
  for (const head of Object.keys(HEADS)) byId(head).replaceChildren(...headOf(result, head));
  byId("files").replaceChildren(filled("h3", {}, "Bytes on the way"), filesOf(result, payloads));
  byId("times").replaceChildren(filled("h3", {}, "Where the milliseconds went"), timesOf(result));
  byId("answers").hidden = false;
}

function captionOf(result, picture) {
  const { image, scaled, input, latent } = result.sizes;
  const steps = [`${picture.name}, ${size(image)} pixels`];
  if (String(scaled) !== String(image)) steps.push(`scaled to ${size(scaled)}`);
  steps.push(`the encoder's input is ${size(input)}${FITS[result.fit] ?? ""}`);
  steps.push(`its latent ${size(latent)}`);
  return `${steps.join("; ")}. Model: ${result.model}.`;
}

// ---- tables

/** Make a table: its column titles, and bodies of rows of cells. */
function table(label, columns, bodies) {
  const made = filled("table", { "aria-label": label });
  const titles = columns.map((title, n) => filled("th", { scope: "col", ...(n && { class: "number" }) }, title));
  made.append(filled("thead", {}, filled("tr", {}, ...titles)));
  for (const { title, rows } of bodies) {
    const body = filled("tbody");
    if (title) {
      const cell = filled("th", { scope: "rowgroup", colspan: columns.length }, title);
      body.append(filled("tr", { class: "group" }, cell));
    }
    body.append(...rows);
    made.append(body);
  }
  return made;
}

function row(title, cells, attributes = {}) {
  const rest = cells.map((cell) => filled("td", { class: "number" }, cell));
  return filled("tr", attributes, filled("th", { scope: "row" }, ...[title].flat()), ...rest);
}

/** Make a number with a bar, which is as long as its share of the largest. */
function barred(text, share) {
  const bar = filled("span", { class: "bar", "aria-hidden": "true" });
  bar.style.width = `${Math.max(0.5, 100 * Math.min(1, share))}%`;
  return filled("span", { class: "barred" }, text, filled("span", { class: "track" }, bar));
}

function swatched(name, color) {
  const swatch = filled("span", { class: "swatch", "aria-hidden": "true" });
  if (color) swatch.style.background = color;
  return [swatch, name];
}

// ---- answers

function headOf(result, head) {
  const rows = result.answers[head];
  const title = filled("h3", {}, HEADS[head], " ", filled("small", {}, head));
  if (!rows) return [title, filled("p", { class: "empty" }, "This model does not answer that.")];
  if (!rows.length) return [title, filled("p", { class: "empty" }, nothingOf(head))];
  return [title, { classification, detection, segmentation }[head](rows)];
}

function nothingOf(head) {
  return head === "detection" ? "No objects: none has a score of 50 % or more." : "Nothing.";
}

function classification(rows) {
  const made = rows.map(({ name, score }) => row(name, [barred(percent(score), score)]));
  return table("Classes", ["class", "score"], [{ rows: made }]);
}

function detection(rows) {
  const made = rows.map(({ name, score, box, color }) => {
    const [left, top, right, bottom] = box.map(Math.round);
    const place = `${left}, ${top} to ${right}, ${bottom}`;
    return row(swatched(name, color), [percent(score), place]);
  });
  return table("Objects", ["object", "score", "left, top to right, bottom"], [{ rows: made }]);
}

function segmentation(rows) {
  const made = rows.map(({ name, share, color }) =>
    row(swatched(name, color), [barred(percent(share), share)]));
  return table("Areas of the mask", ["area", "share of the pixels"], [{ rows: made }]);
}

// ---- bytes and milliseconds

function filesOf(result, payloads) {
  const own = result.payload_bytes;
  const all = result.files.flatMap(({ jpeg, png }) => [...Object.values(jpeg), png]);
  const most = Math.max(own, ...all);
  const line = (title, number, attributes) => row(
    title,
    [barred(count(number), number / most), (number / own).toPrecision(number < own ? 2 : 3)],
    attributes,
  );
  const sent = payloads.map(([model, { title, bytes: number }]) =>
    line(`payload, ${title}`, number, model === result.model ? { class: "own" } : {}));
  const bodies = [{ title: sent.length > 1 ? "Payloads of this picture" : "Payload", rows: sent }];
  for (const { of, size: sides, jpeg, png } of result.files) {
    const what = of === "seen" ? "The picture as the encoder sees it" : "The picture as it is";
    const qualities = Object.entries(jpeg).sort(([a], [b]) => a - b);
    const rows = qualities.map(([quality, number]) => line(`JPEG, quality ${quality}`, number));
    bodies.push({ title: `${what}, ${size(sides)}`, rows: [...rows, line("PNG", png)] });
  }
  bodies.push({ title: "What you chose", rows: [line("the file", result.picture_bytes)] });
  return table("Bytes of the payload and of other files", ["what", "bytes", "× payload"], bodies);
}

function timesOf(result) {
  const { whole, total, seconds } = result;
  const line = (title, number, attributes) =>
    row(title, [barred(milliseconds(number), number / whole)], attributes);
  const bodies = Object.entries(SIDES).map(([side, title]) => {
    const stages = Object.entries(seconds[side]);
    const sum = stages.reduce((before, [, number]) => before + number, 0);
    const rows = stages.map(([stage, number]) => line(STAGES[stage] ?? stage, number));
    return { title: `${title}: ${milliseconds(sum)} ms`, rows };
  });
  const stages = Object.values(seconds).flatMap((side) => Object.values(side));
  const named = stages.reduce((before, number) => before + number, 0);
  const rest = [
    line("sending the picture, receiving the answers", Math.max(0, whole - total)),
    line("between the stages", Math.max(0, total - named)),
    line("the whole", whole, { class: "own" }),
  ];
  bodies.push({ title: "As this browser saw it", rows: rest });
  const together = result.batch_size > 1 ? `, in a batch of ${result.batch_size}` : "";
  return table("Milliseconds by stage", [`stage${together}`, "milliseconds"], bodies);
}
