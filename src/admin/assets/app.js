// The live page: asks /status each second and shows what changed. Rates are differences of its
// counters. Names come from the configuration, so everything is set as text, never as markup.
"use strict";

const PERIOD = 1000;
// Rates and shares look back this far: long enough to be steady, short enough to see an edit.
const WINDOW = 10;
const TOKEN = "evenkeel-token";

const $ = (id) => document.getElementById(id);
const history = new Map();
let generation = null;

const KINDS = {
  "in rotation": "good",
  "half-open": "warn",
  "waiting for a check": "warn",
  draining: "warn",
  open: "bad",
  unhealthy: "bad",
  backup: "idle",
  "weight 0": "idle",
};

function node(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// Writes only what changed: a selection survives, and a screen reader is not told the same again.
function say(element, text) {
  const value = String(text);
  if (element.textContent !== value) element.textContent = value;
}

function mark(element, name, value) {
  if (element.dataset[name] !== value) element.dataset[name] = value;
}

function keyed(parent, key, make) {
  for (const child of parent.children) if (child.dataset.key === key) return child;
  const child = make();
  child.dataset.key = key;
  parent.append(child);
  return child;
}

// Leaves the children of `keys`, in their order.
function arrange(parent, given) {
  const keys = [...new Set(given)];
  const wanted = new Set(keys);
  for (const child of [...parent.children]) if (!wanted.has(child.dataset.key)) child.remove();
  const present = [...parent.children];
  if (keys.some((key, at) => present[at].dataset.key !== key)) {
    const by = new Map(present.map((child) => [child.dataset.key, child]));
    parent.append(...keys.map((key) => by.get(key)));
  }
}

// Per second over the window; null until there are two samples.
function rate(key, value, now) {
  const samples = history.get(key) ?? [];
  // A counter that fell is a new one: the process was restarted.
  if (samples.length && value < samples[samples.length - 1].value) samples.length = 0;
  samples.push({ value, now });
  while (samples.length > 2 && now - samples[0].now > WINDOW * 1000 + PERIOD / 2) samples.shift();
  history.set(key, samples);
  const seconds = (now - samples[0].now) / 1000;
  return seconds > 0 ? (value - samples[0].value) / seconds : null;
}

function number(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 10000) return Math.round(value / 100) / 10 + "k";
  if (value >= 100) return String(Math.round(value));
  return String(Math.round(value * 10) / 10);
}

function percent(part, whole) {
  return whole > 0 ? Math.round((part / whole) * 100) + "%" : "–";
}

function milliseconds(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const value = seconds * 1000;
  return (value >= 100 ? Math.round(value) : Math.round(value * 10) / 10) + " ms";
}

function span(seconds) {
  if (seconds < 90) return Math.round(seconds) + " s";
  if (seconds < 5400) return Math.round(seconds / 60) + " min";
  if (seconds < 172800) return Math.round(seconds / 3600) + " h";
  return Math.round(seconds / 86400) + " d";
}

function showFacts(status) {
  const facts = [
    ["Generation", status.generation],
    ["Running for", span(status.uptime_seconds)],
    ["Workers", status.workers],
  ];
  for (const [name, value] of facts) {
    const pair = keyed($("facts"), name, () => node("div", {}, node("dt", {}, name), node("dd")));
    say(pair.lastChild, value);
  }
  say($("version"), "version " + status.version);
  say($("state"), status.state);
  mark($("state"), "kind", status.state === "ready" ? "good" : "warn");
  const reload = status.last_reload;
  const refused = reload && !reload.successful;
  notice(refused ? "The last reload was refused, generation " + status.generation + " stays in use:\n" + (reload.mistakes ?? "") : "");
}

function showTotals(totals) {
  for (const [name, value, kind] of totals) {
    const item = keyed($("totals"), name, () => node("li", {}, node("b"), node("span", {}, name)));
    say(item.firstChild, value);
    mark(item, "kind", kind ?? "");
  }
}

function upstreamCard() {
  const columns = ["Server", "State", "Weight", "Requests/s", "Failures/s", "In flight", "Latency", "Connections"];
  const heads = columns.map((name, at) => node("th", at > 1 ? { scope: "col", class: "number" } : { scope: "col" }, name));
  return node(
    "article",
    { class: "upstream" },
    node("header", {}, node("h3"), node("p", { class: "meta" }), node("p", { class: "sum" })),
    node(
      "div",
      { class: "shares" },
      node("span", {}, "by weight"),
      node("div", { class: "bar", role: "img" }),
      node("span", {}, "traffic"),
      node("div", { class: "bar actual", role: "img" }),
    ),
    node("table", {}, node("thead", {}, node("tr", {}, ...heads)), node("tbody")),
  );
}

function serverRow() {
  const cell = (label, kind) => node("td", { class: kind, "data-label": label }, node("span"), node("small"));
  const row = node(
    "tr",
    {},
    node("td", { class: "address wide" }, node("i", { class: "key" }), node("span"), node("small")),
    node("td", {}, node("span", { class: "status" }), node("small")),
  );
  for (const label of ["Weight", "Requests/s", "Failures/s", "In flight", "Latency", "Connections"]) {
    row.append(cell(label, "number"));
  }
  return row;
}

function fill(cell, text, detail = "") {
  say(cell.querySelector("span"), text);
  const small = cell.querySelector("small");
  say(small, detail);
  small.hidden = !detail;
}

// Why a server is where it is.
function cause(server) {
  if (server.resolve_error) return server.resolve_error;
  const probe = server.breaker?.seconds_to_probe;
  if (server.state === "open" && probe !== undefined) return "probes in " + Math.ceil(probe) + " s";
  if (server.state === "unhealthy") return server.health?.last_error ?? "";
  if (server.slow_start_percent !== undefined) return "slow start " + server.slow_start_percent + "%";
  if (server.backup && server.state !== "backup") return "backup";
  return "";
}

function showServer(row, server, rates, sums) {
  const [address, state, weight, requests, failures, flight, latency, connections] = row.children;
  fill(address, server.address, (server.names ?? []).join(", "));
  const status = state.querySelector(".status");
  mark(status, "kind", KINDS[server.state] ?? "idle");
  fill(state, server.state, cause(server));
  const changed = server.override;
  const share = server.names ? Math.round(server.effective_weight * 100) / 100 : server.weight;
  const used = changed?.weight ?? share;
  fill(weight, used, changed ? (changed.weight === undefined ? "drained by hand" : "file: " + server.weight) : "");
  fill(requests, number(rates.requests), rates.requests > 0 ? percent(rates.requests, sums.requests) : "");
  fill(failures, number(rates.failures));
  failures.querySelector("span").className = rates.failures > 0 ? "failing" : "";
  fill(flight, server.in_flight, server.in_flight >= server.max_requests ? "full" : "");
  fill(latency, milliseconds(server.latency_seconds));
  fill(connections, server.connections.active, server.connections.idle + " idle");
}

function showBar(bar, names, parts) {
  const whole = parts.reduce((sum, part) => sum + part, 0);
  while (bar.children.length > parts.length) bar.lastChild.remove();
  while (bar.children.length < parts.length) bar.append(node("i"));
  parts.forEach((part, at) => {
    bar.children[at].hidden = part === 0;
    bar.children[at].style.width = whole > 0 ? (part / whole) * 100 + "%" : "0";
  });
  bar.setAttribute("aria-label", names.map((name, at) => name + " " + percent(parts[at], whole)).join(", "));
}

function showUpstream(upstream, now) {
  const card = keyed($("upstreams"), upstream.name, upstreamCard);
  const rates = upstream.servers.map((server) => {
    const key = upstream.name + "\n" + server.address;
    return { requests: rate(key, server.attempts, now), failures: rate(key + "\nf", server.failures, now) };
  });
  const sum = (pick) => rates.reduce((total, each) => total + (pick(each) ?? 0), 0);
  const sums = { requests: sum((each) => each.requests), failures: sum((each) => each.failures) };
  say(card.querySelector("h3"), upstream.name);
  const about = [upstream.balance];
  if (upstream.panic) about.push("panic: health checks are ignored");
  if (upstream.concurrency)
    about.push("concurrency " + upstream.concurrency.in_flight + " of " + upstream.concurrency.limit);
  if (upstream.queue_length > 0) about.push(upstream.queue_length + " waiting");
  say(card.querySelector(".meta"), about.join(" · "));
  say(card.querySelector(".sum"), number(sums.requests) + " requests/s");

  const body = card.querySelector("tbody");
  upstream.servers.forEach((server, at) => {
    showServer(keyed(body, server.address, serverRow), server, rates[at], sums);
  });
  const addresses = upstream.servers.map((server) => server.address);
  arrange(body, addresses);
  const [meant, sent] = card.querySelectorAll(".bar");
  showBar(meant, addresses, upstream.servers.map((server) => server.effective_weight));
  showBar(sent, addresses, rates.map((each) => each.requests ?? 0));
  return sums;
}

function showTable(table, rows) {
  const body = table.querySelector("tbody");
  for (const [key, cells] of rows) {
    const row = keyed(body, key, () => node("tr", {}, ...cells.map((cell) => node("td", typeof cell === "string" ? {} : { class: "number" }))));
    cells.forEach((cell, at) => say(row.children[at], cell));
  }
  arrange(body, rows.map(([key]) => key));
}

function show(status) {
  const now = performance.now();
  if (generation !== null && status.generation < generation) history.clear();
  generation = status.generation;
  showFacts(status);
  const sums = status.upstreams.map((upstream) => showUpstream(upstream, now));
  arrange($("upstreams"), status.upstreams.map((upstream) => upstream.name));
  // A cell in brackets is a number, and aligned like one.
  const routes = status.routes.map((route) => [route.name, [route.name, route.upstream, [number(rate("route\n" + route.name, route.requests_total, now))]]]);
  showTable($("routes"), routes);
  showTable($("listeners"), status.listeners.map((listener) => [
    listener.name,
    [listener.name, listener.address, [listener.connections], [listener.requests_in_flight]],
  ]));
  const servers = status.upstreams.flatMap((upstream) => upstream.servers);
  const out = servers.filter((server) => KINDS[server.state] === "bad").length;
  const total = (list, pick) => list.reduce((sum, each) => sum + pick(each), 0);
  const asked = total(status.routes, (route) => rate("asked\n" + route.name, route.requests_total, now) ?? 0);
  const failures = total(sums, (each) => each.failures);
  showTotals([
    ["requests/s", number(asked)],
    ["failed attempts/s", number(failures), failures > 0 ? "bad" : ""],
    ["in flight", total(status.listeners, (listener) => listener.requests_in_flight)],
    ["connections", total(status.listeners, (listener) => listener.connections)],
    ["servers out", out + " of " + servers.length, out > 0 ? "bad" : ""],
  ]);
  $("main").hidden = false;
  $("login").hidden = true;
  $("main").classList.remove("stale");
}

function notice(text) {
  say($("notice"), text);
  $("notice").hidden = !text;
}

function ask(why) {
  say($("login-why"), why);
  if ($("login").hidden) {
    $("main").hidden = true;
    $("login").hidden = false;
    $("token").focus();
  }
  say($("state"), "locked");
  mark($("state"), "kind", "warn");
}

async function poll() {
  try {
    const token = sessionStorage.getItem(TOKEN);
    const headers = token ? { authorization: "Bearer " + token } : {};
    const answer = await fetch("status", { headers, cache: "no-store", signal: AbortSignal.timeout(5000) });
    if (answer.status === 401) {
      sessionStorage.removeItem(TOKEN);
      notice("");
      ask(token ? "That token was not accepted." : "Off loopback, everything but this page needs it.");
      return;
    }
    const body = await answer.json();
    if (!answer.ok) throw new Error("the answer is " + answer.status + ": " + (body.error ?? answer.statusText));
    show(body);
  } catch (error) {
    say($("state"), "no answer");
    mark($("state"), "kind", "bad");
    $("main").classList.add("stale");
    notice("No view of the proxy: " + error.message);
  }
  setTimeout(poll, PERIOD);
}

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, $("token").value.trim());
  $("token").value = "";
  poll();
});

poll();
