"use strict";
// Asks the sidecar every two seconds and shows what it says. All text goes in as text, never as HTML.

const EVERY = 2000, STEPS = 450, A_POINT = 5, POINTS = STEPS / A_POINT;
const TIERS = ["hot", "disk", "warm", "coalesced", "computed"];
const HITS = ["hot", "disk", "warm"];
const $ = (id) => document.getElementById(id);

let steps = [], settings = [], lastContact = null, shown = null, paused = false, asking = false, timer = null;

// Numbers

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const count = (n) => (n ? whole.format(n) : "–");
const rate = (n) => (n >= 1000 ? short.format(n) : n >= 10 ? n.toFixed(0) : n ? n.toFixed(1) : "0");
const share = (part, all) => (all ? (100 * part / all).toFixed(part === all || part === 0 ? 0 : 1) + " %" : "–");
const sum = (list) => list.reduce((a, b) => a + b, 0);

function bytes(n) {
  if (!n) return "–";
  const power = Math.min(4, Math.floor(Math.log2(n) / 10));
  return (n / 2 ** (10 * power)).toFixed(power ? 1 : 0) + " " + ["B", "KiB", "MiB", "GiB", "TiB"][power];
}

function span(seconds) {
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]])
    if (seconds >= length) return (seconds / length).toFixed(1) + " " + unit;
  return seconds ? seconds.toFixed(seconds < 10 ? 1 : 0) + " s" : "0 s";
}

function time(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms >= 1000) return (ms / 1000).toFixed(1) + " s";
  return (ms >= 100 ? ms.toFixed(0) : ms >= 1 ? ms.toFixed(1) : ms.toFixed(2)) + " ms";
}

const clock = (at) => new Date(at).toLocaleTimeString("en-GB");

// Elements

function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function make(name, text, attributes) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  return node;
}

function pairs(id, rows) {
  const list = $(id), known = list.children;
  if (known.length !== rows.length * 2)
    list.replaceChildren(...rows.flatMap(() => [make("dt"), make("dd")]));
  rows.forEach(([name, value, level], i) => {
    put(known[2 * i], name);
    put(known[2 * i + 1], value);
    known[2 * i + 1].className = level ? "state " + level : "";
  });
}

// columns: [title, class]. A cell is a text, or {text, cls, meter}; the first one is the row's name.
function table(id, columns, rows, nothing) {
  const node = $(id);
  if (!node.tHead) {
    const row = node.createTHead().insertRow();
    for (const [title, cls] of columns) row.append(make("th", title, { scope: "col", class: cls || "" }));
    node.createTBody();
  }
  const body = node.tBodies[0];
  if (!rows.length) {
    if (body.dataset.rows !== "none") body.replaceChildren(make("tr"));
    body.dataset.rows = "none";
    if (!body.rows[0].cells.length) body.rows[0].append(make("td", "", { class: "none", colspan: columns.length }));
    put(body.rows[0].cells[0], nothing);
    return;
  }
  if (body.dataset.rows !== "some") body.replaceChildren();
  body.dataset.rows = "some";
  while (body.rows.length > rows.length) body.deleteRow(-1);
  while (body.rows.length < rows.length) {
    const row = body.insertRow();
    columns.forEach(([, cls], i) => row.append(make(i ? "td" : "th", "", i ? { class: cls || "" } : { scope: "row" })));
  }
  rows.forEach((cells, r) => cells.forEach((cell, c) => fill(body.rows[r].cells[c], cell, columns[c][1] || "")));
}

function fill(node, cell, base) {
  const { text, cls, meter } = typeof cell === "string" ? { text: cell } : cell;
  const cname = (base + " " + (cls || "")).trim();
  if (node.tagName === "TD" && node.className !== cname) node.className = cname;
  if (meter === undefined) return put(node, text);
  if (!node.firstElementChild) node.replaceChildren(make("span"), make("meter", undefined, { min: 0, max: 1, "aria-hidden": "true" }));
  put(node.firstElementChild, text);
  node.lastElementChild.value = meter;
}

// What is shown

function showHealth(data) {
  const found = data.findings || [];
  const level = data.state !== "serving" ? "warning" : found.some((f) => f.level === "critical") ? "critical"
    : found.some((f) => f.level === "warning") ? "warning" : "good";
  const things = found.filter((f) => f.level !== "note").length;
  const title = { good: "Healthy", warning: "Needs attention", critical: "Failing" }[level];
  const state = { starting: "Starting", draining: "Draining" }[data.state];
  put($("verdict"), state || title);
  put($("verdict-more"), data.state === "starting" ? "Models and tiers are being opened. Calls are not taken yet."
    : data.state === "draining" ? "Calls in progress end, then the sidecar exits. It is not ready for new ones."
    : things ? (things === 1 ? "One thing is wrong. " : things + " things are wrong. ") + "What was counted in the last minute says so."
    : "Calls are answered; nothing that it depends on is failing.");
  $("health").dataset.level = level;
  document.title = ({ good: "● ", warning: "▲ ", critical: "■ " }[level]) + (state || title) + " - Embercache";
  const list = $("findings");
  if (list.children.length !== found.length)
    list.replaceChildren(...found.map(() => {
      const item = make("li"), head = make("p");
      head.append(make("span", "", { class: "level" }), make("span", "", { class: "title" }));
      item.append(head, make("p"), make("p", "", { class: "action" }));
      return item;
    }));
  found.forEach((f, i) => {
    const [head, meaning, action] = list.children[i].children;
    list.children[i].dataset.level = f.level;
    put(head.children[0], { critical: "Critical", warning: "Warning", note: "Note" }[f.level]);
    put(head.children[1], f.title);
    put(meaning, f.meaning);
    put(action, f.action);
  });
}

function tile(name, value, more) {
  put($("tile-" + name), value);
  put($("tile-" + name + "-more"), more || "\u00a0");
}

function showTiles(data) {
  const minute = steps.slice(-30), stats = data.stats;
  const add = (name) => sum(minute.map((s) => s[name]));
  const answered = sum(TIERS.map(add)), hits = sum(HITS.map(add)), seconds = add("seconds");
  const all = sum(TIERS.map((t) => stats.tiers[t].answered)), allHits = sum(HITS.map((t) => stats.tiers[t].answered));
  const [p50, p99] = data.latency_ms, calls = add("calls"), failed = add("calls_failed"), saved = data.saved;
  tile("hits", share(hits, answered), "since start " + share(allHits, all));
  tile("inputs", seconds ? rate(answered / seconds) : "–", short.format(all) + " since start");
  tile("latency", time(p50), "99 % within " + time(p99));
  tile("failed", calls ? whole.format(failed) : "–", calls ? "of " + short.format(calls) + " calls" : "no calls");
  tile("time", span(saved.seconds), short.format(saved.tokens) + " tokens saved");
  const priced = settings.some((s) => s.name.startsWith("prices.") && !s.default);
  tile("money", priced ? saved.money.toFixed(2) : "–", priced ? "at the prices set" : "no prices are set");
}

function showParts(data) {
  const { stats, invalidations: changes } = data, warm = stats.warm;
  put($("redis-state"), { off: "none", up: "up", down: "left alone" }[warm.state] || "not known");
  $("redis-state").className = "state " + ({ up: "good", down: "warning" }[warm.state] || "");
  pairs("redis", warm.state === "off" ? [["Set redis.url to share entries between sidecars", ""]] : [
    ["Memory", !warm.memory_bytes ? "not known" : bytes(warm.memory_bytes) + " of " + (warm.memory_limit_bytes ? bytes(warm.memory_limit_bytes) : "no limit")],
    ["Lookups that failed or were late", whole.format(warm.errors)],
    ["Lookups not made while it was down", whole.format(warm.skipped)],
    ["Writes dropped", whole.format(warm.writes_dropped)]]);
  const asked = Object.entries(changes.asked).map(([name, n]) => ["Calls of " + name, whole.format(n)]);
  pairs("changes", [...(warm.state === "off" ? [] : [
    ["Last heard from Redis", span(warm.invalidations_heard_seconds) + " ago"],
    ["Changes heard of since the start", whole.format(changes.heard)],
    ["In the last 15 minutes", whole.format(sum(steps.map((s) => s.invalidations)))]]), ...asked]);
  const depends = Object.entries(data.breakers).map(([name, open]) =>
    [name, open ? "left alone" : "in use", open ? "warning" : "good"]);
  pairs("breakers", depends.length ? depends : [["Nothing outside this process", ""]]);
}

function showTables(data) {
  const { stats } = data, text = "text", all = sum(TIERS.map((t) => stats.tiers[t].answered));
  table("models", [["Name"], ["Waiting"], ["Wait"], ["Computed"], ["Tokens"], ["Tokens a second"], ["Refused: full"], ["Late"], ["Given up", "minor"], ["Version", "text"]], [
    ...stats.models.map((m) => [m.name, count(m.queued), m.queue_seconds ? span(m.queue_seconds) : "–", count(m.computed), short.format(m.tokens), "–",
      count(m.shed - m.refused_late), count(m.refused_late + m.dropped_late), count(m.abandoned), m.version.slice(0, 12) || { text: "not reached yet", cls: "bad" }]),
    ...stats.generators.map((g) => [g.name, count(g.queued), "–", count(g.generated), short.format(g.prefill_tokens + g.decode_tokens),
      g.decode_seconds ? rate(g.decode_tokens / g.decode_seconds) : "–", count(g.shed - g.refused_late), count(g.refused_late + g.dropped_late), count(g.abandoned),
      g.version.slice(0, 12) || { text: "not reached yet", cls: "bad" }])], "No models");
  table("tiers", [["Tier"], ["Answered"], ["Share"], ["Entries"], ["Size"], ["Full"], ["Evictions"], ["Corrupt"]], TIERS.map((name) => {
    const t = stats.tiers[name], used = t.capacity_bytes ? t.bytes / t.capacity_bytes : 0;
    return [name, count(t.answered), t.answered ? share(t.answered, all) : "–", count(t.entries), bytes(t.bytes), t.capacity_bytes ? share(t.bytes, t.capacity_bytes) : "–",
      count(t.evictions), t.corrupt ? { text: count(t.corrupt), cls: "bad" } : "–"];
  }), "");
  table("methods", [["Method"], ["Calls"], ["Median"], ["99 %"], ["Failed"], ["With", "text long"]], data.methods.map((m) => {
    const codes = Object.entries(m.failed);
    return [m.method, count(m.calls), time(m.p50_ms), time(m.p99_ms), count(sum(codes.map((c) => c[1]))), codes.map((c) => c[0] + " " + c[1]).join(", ") || "–"];
  }), "No calls in the last minute");
  table("usage", [["Kind"], ["Namespace", "text name"], ["Model", "text name minor"], ["Hit rate"], ["Hits"], ["Computed"], ["A hit"], ["Computing"], ["Time saved"], ["Money saved"], ["Pays from", "minor"]], stats.usage.map((u) => {
    const of = sum(Object.values(u.answered)), hits = sum(HITS.map((t) => u.answered[t] || 0));
    return [u.kind, u.namespace, u.model, { text: share(hits, of), meter: of ? hits / of : 0 }, count(hits), count(u.answered.computed), time(u.hit_ms || null), time(u.compute_ms || null),
      span(u.seconds_saved), u.money_saved ? u.money_saved.toFixed(2) : "–", u.break_even_hit_rate ? share(u.break_even_hit_rate, 1) : "–"];
  }), "Nothing was asked yet");
  put($("usage-more"), data.usage_rows > stats.usage.length ? `The ${stats.usage.length} busiest of ${data.usage_rows}; all: embercache stats --json` : "");
  table("hottest", [["Kind"], ["Digest", text], ["Namespace", "text name"], ["About"]], (data.hottest || []).map((h) => [h.kind, h.digest, h.namespace, count(h.count) + " ×"]),
    data.hottest ? "None of late" : "Not tracked: set popular.queries, which keeps their texts");
  put($("hottest-more"), data.hottest ? "Digests are keyed with a secret of this process: after a restart they are others." : "");
  table("quotas", [["Namespace", "name"], ["Quota", text], ["Refused"]], stats.quotas.map((q) => [q.namespace, q.quota, count(q.refusals)]), "No call was refused");
}

function showSettings() {
  const wanted = $("filter").value.trim().toLowerCase(), changed = $("changed").checked;
  const rows = settings.filter((s) => !(changed && s.default) && (s.name + " " + s.value + " " + s.meaning).toLowerCase().includes(wanted));
  table("settings", [["Setting"], ["Value", "text long"], ["Meaning", "text wide minor"]], rows.map((s) => [s.name, s.value || "(empty)", s.meaning]),
    changed ? "None: all are at their default, or do not match" : "None matches");
}

// Charts: each point is five steps, ten seconds; what is newest is on the right.

function points() {
  const found = new Map();
  for (const s of steps) {
    const slot = Math.floor(s.number / A_POINT);
    if (!found.has(slot)) found.set(slot, []);
    found.get(slot).push(s);
  }
  const last = steps.length ? Math.floor(steps[steps.length - 1].number / A_POINT) : 0;
  return Array.from({ length: POINTS }, (_, i) => {
    const some = found.get(last - POINTS + 1 + i);
    if (!some) return null;
    const add = (name) => sum(some.map((s) => s[name]));
    const point = { at: some[some.length - 1].at, seconds: add("seconds"), queued: Math.max(...some.map((s) => s.queued)) };
    for (const name of TIERS) point[name] = add(name);
    point.all = sum(TIERS.map((name) => point[name]));
    const timed = some.filter((s) => s.p50_ms !== null), calls = sum(timed.map((s) => s.calls));
    point.p50 = calls ? sum(timed.map((s) => s.p50_ms * s.calls)) / calls : null;
    point.p99 = timed.length ? Math.max(...timed.map((s) => s.p99_ms)) : null;
    return point;
  });
}

const SVG = "http://www.w3.org/2000/svg";
const drawn = {};
function shape(parent, name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  parent.append(node);
  return node;
}

// A chart's frame: three labels of the y axis, the plot, and a line that says what is at the cursor.
function frame(id, title, series, stacked) {
  const figure = $(id), plot = make("div", undefined, { class: "plot", tabindex: "0", role: "img" });
  const svg = shape(plot, "svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", "aria-hidden": "true" });
  for (const y of [0, 50, 100]) shape(svg, "line", { x1: 0, x2: 100, y1: y, y2: y });
  const paths = series.map((cls) => shape(svg, "path", { class: stacked ? cls : cls + " curve" }));
  const cursor = shape(svg, "line", { class: "cursor", x1: 0, x2: 0, y1: 0, y2: 100, visibility: "hidden" });
  const labels = ["5%", "47%", "88%"].map((top) => {
    const label = plot.appendChild(make("span", "", { class: "y" }));
    label.style.top = top;
    return label;
  });
  for (const [text, left] of [["15 min ago", "3.6rem"], ["now", ""]]) {
    const label = plot.appendChild(make("span", text, { class: "x" }));
    if (left) label.style.left = left; else label.style.right = "0";
  }
  const readout = make("p", "", { class: "readout" });
  figure.append(plot, readout);
  const chart = (drawn[id] = { plot, paths, cursor, labels, readout, title, at: null, points: [], say: () => "" });
  const move = (at) => { chart.at = at; point(chart); };
  plot.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    move(Math.max(0, Math.min(POINTS - 1, Math.floor((event.clientX - box.left) / box.width * POINTS))));
  });
  for (const gone of ["pointerleave", "blur"]) plot.addEventListener(gone, () => move(null));
  plot.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, Home: -POINTS, End: POINTS }[event.key];
    if (!by) return;
    event.preventDefault();
    move(Math.max(0, Math.min(POINTS - 1, (chart.at ?? POINTS - 1) + by)));
  });
}

function point(chart) {
  const there = chart.at !== null;
  chart.cursor.setAttribute("visibility", there ? "visible" : "hidden");
  const x = there ? (chart.at + 0.5) / POINTS * 100 : 0;
  chart.cursor.setAttribute("x1", x);
  chart.cursor.setAttribute("x2", x);
  const at = there ? chart.points[chart.at] : chart.points.findLast((p) => p);
  put(chart.readout, at ? clock(at.at) + " · " + chart.say(at) : there ? "not measured" : "");
}

// Areas from the bottom up; a run of points without data is left open.
function areas(chart, list, parts, height) {
  const base = list.map(() => 0);
  parts.forEach((name, n) => {
    let d = "";
    for (let i = 0; i < POINTS; i++) {
      const value = list[i] ? height(list[i], name) : null;
      if (value === null) continue;
      const left = (i / POINTS * 100).toFixed(2), right = ((i + 1) / POINTS * 100).toFixed(2);
      if (value > 0) d += `M${left} ${(100 - base[i]).toFixed(2)}H${right}V${(100 - base[i] - value).toFixed(2)}H${left}Z`;
      base[i] += value;
    }
    chart.paths[n].setAttribute("d", d);
  });
}

function curve(path, values) {
  let d = "", pen = "M";
  values.forEach((y, i) => {
    if (y === null) { pen = "M"; return; }
    d += pen + ((i + 0.5) / POINTS * 100).toFixed(2) + " " + y.toFixed(2);
    pen = "L";
  });
  path.setAttribute("d", d);
}

function ceiling(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((m) => m * power).find((m) => m >= value);
}

function draw(id, list, labels, say, summary) {
  const chart = drawn[id];
  chart.points = list;
  chart.say = say;
  labels.forEach((text, i) => put(chart.labels[i], text));
  chart.plot.setAttribute("aria-label", `${chart.title}, the last 15 minutes. ${summary} Arrow keys move along.`);
  point(chart);
}

function showCharts() {
  const list = points(), there = list.filter((p) => p), busy = there.filter((p) => p.all);
  const last = there[there.length - 1], hitsOf = (p) => sum(HITS.map((t) => p[t]));
  areas(drawn["chart-share"], list, TIERS, (p, tier) => (p.all ? p[tier] / p.all * 100 : null));
  const hits = busy.map((p) => hitsOf(p) / p.all);
  draw("chart-share", list, ["100 %", "50 %", "0 %"],
    (p) => (p.all ? TIERS.filter((t) => p[t]).map((t) => t + " " + share(p[t], p.all)).join(" · ") : "no inputs"),
    hits.length ? `Hit rate now ${share(hits[hits.length - 1], 1)}, lowest ${share(Math.min(...hits), 1)}, highest ${share(Math.max(...hits), 1)}.` : "No inputs.");
  const top = ceiling(Math.max(0, ...there.map((p) => p.all / p.seconds)));
  areas(drawn["chart-rate"], list, TIERS, (p, tier) => p[tier] / p.seconds / top * 100);
  draw("chart-rate", list, [rate(top), rate(top / 2), "0"], (p) => rate(p.all / p.seconds) + " a second",
    last ? `Now ${rate(last.all / last.seconds)}, most ${rate(Math.max(...there.map((p) => p.all / p.seconds)))}.` : "Not measured yet.");
  const times = there.flatMap((p) => [p.p50, p.p99]).filter((v) => v !== null && v > 0);
  const low = times.length ? Math.floor(Math.log10(Math.min(...times))) : -1;
  const high = times.length ? Math.max(low + 2, Math.ceil(Math.log10(Math.max(...times)))) : 1;
  const y = (v) => (v === null ? null : 100 - (Math.log10(Math.max(v, 10 ** low)) - low) / (high - low) * 100);
  ["p50", "p99"].forEach((name, n) => curve(drawn["chart-latency"].paths[n], list.map((p) => (p ? y(p[name]) : null))));
  draw("chart-latency", list, [high, (low + high) / 2, low].map((power) => time(10 ** power)),
    (p) => "median " + time(p.p50) + " · slowest 1 % " + time(p.p99),
    times.length ? `Median now ${time(busy.length ? busy[busy.length - 1].p50 : null)}, slowest 1 % at most ${time(Math.max(...times))}.` : "No calls.");
  const most = ceiling(Math.max(1, ...there.map((p) => p.queued)));
  areas(drawn["chart-queue"], list, ["queue"], (p) => p.queued / most * 100);
  draw("chart-queue", list, [whole.format(most), most > 1 ? whole.format(most / 2) : "", "0"], (p) => whole.format(p.queued) + " waiting",
    last ? `Now ${last.queued}, most ${Math.max(...there.map((p) => p.queued))}.` : "Not measured yet.");
  showMinutes(list);
}

function showMinutes(list) {
  const rows = [];
  for (let i = 0; i < POINTS; i += 6) {
    const some = list.slice(i, i + 6).filter((p) => p);
    if (!some.length) continue;
    const add = (name) => sum(some.map((p) => p[name])), all = add("all"), slow = some.map((p) => p.p99).filter((v) => v !== null);
    rows.unshift([clock(some[some.length - 1].at), rate(all / add("seconds")), ...TIERS.map((t) => share(add(t), all)), slow.length ? time(Math.max(...slow)) : "–", whole.format(Math.max(...some.map((p) => p.queued)))]);
  }
  table("minutes", [["Until"], ["Inputs a second"], ...TIERS.map((t) => [t]), ["Slowest 1 %"], ["Waiting"]], rows, "Not measured yet");
}

// Asking

function show(data) {
  showHealth(data);
  if (!data.stats) return;
  if (data.settings) { settings = data.settings; showSettings(); }
  put($("about"), `version ${data.stats.version}, up ${span(data.stats.uptime_seconds)}`);
  showTiles(data);
  showCharts();
  showParts(data);
  showTables(data);
}

function take(data) {
  const rows = (data.steps || []).map((row) => Object.fromEntries(row.map((value, i) => [data.fields[i], value])));
  steps = [...steps, ...rows].slice(-STEPS);
}

async function ask() {
  const last = steps.length ? steps[steps.length - 1].number : 0;
  const get = async (after) => {
    const answer = await fetch("data?after=" + after, { cache: "no-store", signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error(`it answered ${answer.status}`);
    return answer.json();
  };
  let data = await get(last);
  // It was started anew: what it counted before is gone.
  if (last && data.process && data.process !== shown.process) { steps = []; data = await get(0); }
  take(data);
  shown = data;
  show(data);
}

async function turn() {
  clearTimeout(timer);
  if (paused || document.hidden || asking) return;
  asking = true;
  try {
    await ask();
    lastContact = Date.now();
    document.body.classList.remove("stale");
    put($("updated"), "updated " + clock(lastContact));
  } catch (error) {
    document.body.classList.add("stale");
    $("health").dataset.level = "critical";
    document.title = "■ No answer - Embercache";
    $("findings").replaceChildren();
    put($("verdict"), "No answer from the sidecar");
    put($("verdict-more"), (lastContact ? `What is below is of ${clock(lastContact)}. ` : "") + "It has stopped, restarts, or cannot be reached. Trying again every two seconds.");
    put($("updated"), "no contact");
  }
  asking = false;
  timer = setTimeout(turn, EVERY);
}

frame("chart-share", "Share answered by each tier", TIERS, true);
frame("chart-rate", "Inputs a second", TIERS, true);
frame("chart-latency", "Duration of calls", ["p50", "p99"], false);
frame("chart-queue", "Waiting for models", ["queue"], true);
$("pause").addEventListener("click", () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", String(paused));
  put($("pause"), paused ? "Go on" : "Pause");
  if (paused) put($("updated"), "paused at " + clock(lastContact || Date.now()));
  turn();
});
document.addEventListener("visibilitychange", turn);
$("filter").addEventListener("input", showSettings);
$("changed").addEventListener("change", showSettings);
turn();
