"use strict";
// This script draws the report from the data in the page: `D` is what report.py's `_data` returns, `S` the tournament's
// summary (summary.py) and `T` its game theory. It changes the document and, for links to lists and games, location.hash.
const D = JSON.parse(document.getElementById("data").textContent), S = D.summary, rows = S.table, T = S.theory;
const SVG = "http://www.w3.org/2000/svg", MAX_LISTED_GAMES = 200, FAULTS_PER_CLICK = 10;
const KINDS = {crash: "crashed", timeout: "took too long", illegal: "illegal action", nonfinite: "action not finite"};

// Everything from the data goes in as text or as an attribute, never as markup.
function make(space, tag, attributes, children) {
  const node = space ? document.createElementNS(space, tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  for (const child of children.flat()) if (child !== null) node.append(child);
  return node;
}
const el = (tag, attributes, ...children) => make(null, tag, attributes, children);
const svgElement = (tag, attributes, ...children) => make(SVG, tag, attributes, children);
const percent = (x, digits = 0) => x === null ? "–" : (100 * x).toFixed(digits) + "%";
const signed = x => (x < 0 ? "−" : "+") + Math.abs(Math.round(x));
const count = x => x.toLocaleString("en");
const sum = values => values.reduce((a, b) => a + b, 0);

// ---- games ------------------------------------------------------------------------------------------------------------
// A game is a row g = [index in D.seatings, pair, leg, index in D.results, steps, surprise per mille], and is referred to
// by its row number k in D.rows. Entrants are indices in D.names.
const pairing = g => D.seatings[g[0]][0], entrantsAtSeats = g => D.seatings[g[0]][1];
const matchId = g => pairing(g).map(k => D.names[k]).join("~") + "/" + g[1] + "/" + g[2];
const rankIn = (g, entrant) => D.results[g[3]][0][entrantsAtSeats(g).indexOf(entrant)];
function resultOf(g, entrant, versus) {
  const others = versus === null ? pairing(g).filter(k => k !== entrant) : [versus];
  const own = rankIn(g, entrant), best = Math.min(...others.map(k => rankIn(g, k)));
  return own < best ? "won" : own === best ? "drawn" : "lost";
}
// Return the row numbers of the games that a filter selects, those with a replay first, then the most surprising.
function select(filter) {
  const entrant = filter.has("entrant") ? Number(filter.get("entrant")) : null, vs = filter.has("vs") ? Number(filter.get("vs")) : null;
  const seat = filter.has("seat") ? Number(filter.get("seat")) : null, result = filter.get("result");
  const selected = [];
  D.rows.forEach((g, k) => {
    if (entrant !== null && !pairing(g).includes(entrant) || vs !== null && !pairing(g).includes(vs)) return;
    if (entrant !== null && pairing(g).length < 2) return;
    if (seat !== null && entrantsAtSeats(g)[seat] !== entrant) return;
    if (filter.has("forfeit") && D.results[g[3]][1] !== "forfeit") return;
    if (result && resultOf(g, entrant, vs) !== result) return;
    selected.push(k);
  });
  return selected.sort((a, b) => (b in D.watch) - (a in D.watch) || D.rows[b][5] - D.rows[a][5]);
}
const listing = query => "#games&" + new URLSearchParams(query);
const watching = g => "#game=" + encodeURIComponent(matchId(g));
function seatingText(g) {
  const names = entrantsAtSeats(g).map((k, seat) => `${D.seats[seat]} ${D.names[k]}`);
  return names.length > 6 ? names.slice(0, 5).join(", ") + ", ..." : names.join(" – ");
}
function resultText(g) {
  const best = pairing(g).filter(k => rankIn(g, k) === 1);
  const outcome = best.length === 1 ? D.names[best[0]] + " won" : "drawn";
  return `${outcome}${D.results[g[3]][1] === "forfeit" ? " by forfeit" : ""}, ${g[4]} steps`;
}
// Return the list item of game k: a link, its seating and its result.
function line(k) {
  const g = D.rows[k], upset = g[5] > 500;
  return el("li", {},
    k in D.watch ? el("a", {class: "play", href: watching(g)}, "▶ watch") : el("a", {class: "play", href: watching(g)}, "command"),
    el("span", {}, seatingText(g)), el("span", {class: upset ? "hot" : "soft"}, resultText(g)),
    g[5] >= 0 ? el("span", {class: "tag"}, `expected ${percent(1 - g[5] / 1000)}`) : null);
}

// ---- sections --------------------------------------------------------------------------------------------------------
// Each of these functions returns elements of the page.
function head() {
  const total = S.matches + S.missing, settings = D.settings;
  const badges = el("ul", {class: "badges"},
    S.complete ? el("li", {class: "good"}, `complete: all ${count(total)} matches`)
      : el("li", {class: "bad"}, `INCOMPLETE: ${count(S.matches)} of ${count(total)} matches`),
    S.faults ? el("li", {class: "bad"}, el("a", {href: listing({forfeit: 1})}, `${count(S.faults)} forfeits`)) : el("li", {class: "good"}, "no forfeits"),
    ...S.unplayed.map(name => el("li", {class: "bad"}, `${name} has not played yet`)),
    el("li", {}, `${count(S.different)} different games`), el("li", {}, `${D.names.length} entrants`), el("li", {}, `${S.schedule}, ${settings.pairs} pairs`), el("li", {}, `seed ${settings.seed}`),
    settings.opening ? el("li", {}, `${settings.opening} random opening steps`) : null);
  return [el("h1", {}, `${S.world} tournament`), el("div", {class: "soft"}, D.folder), badges];
}
// Return a function from ratings to x coordinates, 0 to 200.
function scale() {
  const low = Math.min(...rows.map(r => r.low)), high = Math.max(...rows.map(r => r.high)), pad = Math.max((high - low) * .05, 1);
  return x => 200 * (x - low + pad) / (high - low + 2 * pad);
}
function board() {
  const at = scale(), seats = [...new Set(rows.flatMap(r => r.seats.map(s => s.seat)))];
  const zero = at(S.anchor ? S.anchor.elo : 0);
  const header = ["", "entrant", "rating, 95 % interval", "", "ranks", "games", "won", "drawn", "lost", "score", ...(seats.length <= 8 ? seats : [])];
  const body = rows.map((r, k) => {
    const link = (text, more) => el("td", {}, el("a", {href: listing({entrant: k, ...more})}, text));
    const anchored = S.anchor && S.anchor.name === r.name;
    const bar = svgElement("svg", {class: "bar", viewBox: "0 0 200 22", role: "img", "aria-label": anchored ? "anchor" : `${signed(r.low)} to ${signed(r.high)}`},
      svgElement("line", {class: "zero", x1: zero, x2: zero, y1: 0, y2: 22}),
      svgElement("line", {x1: at(r.low), x2: at(r.high), y1: 11, y2: 11}),
      svgElement("line", {x1: at(r.low), x2: at(r.low), y1: 7, y2: 15}), svgElement("line", {x1: at(r.high), x2: at(r.high), y1: 7, y2: 15}),
      svgElement("circle", {cx: at(r.rating), cy: 11, r: 4.5}));
    const split = seats.length > 8 ? [] : seats.map(seat => {
      const own = r.seats.find(s => s.seat === seat);
      return own ? link(percent(own.score), {seat: D.seatOf[seat]}) : el("td", {}, "–");
    });
    return el("tr", {}, el("td", {}, String(r.rank)), el("td", {class: "name", title: D.specs[r.name] || r.name}, r.name),
      el("td", {class: "left"}, el("a", {href: listing({entrant: k})}, el("b", {}, anchored ? String(Math.round(r.rating)) : signed(r.rating)),
        anchored ? " (anchor)" : ` (${signed(r.low)} to ${signed(r.high)})`)), el("td", {class: "picture"}, bar),
      link(r.rank_low === r.rank_high ? String(r.rank_low) : `${r.rank_low}–${r.rank_high}`, {}),
      link(count(r.games), {}), link(count(r.wins), {result: "won"}), link(count(r.draws), {result: "drawn"}), link(count(r.losses), {result: "lost"}),
      link(percent(r.score, 1), {}), split);
  });
  const seat = S.effects.seat, draw = S.effects.draw;
  return el("section", {class: "board"}, el("h2", {}, "Leaderboard"),
    el("p", {class: "soft"}, `Elo; ${S.anchor ? `${S.anchor.name} is ${S.anchor.elo}` : "the mean is 0"}. Every number leads to its games.`
      + (seat ? ` The first seat is worth ${signed(seat.value)} (${signed(seat.low)} to ${signed(seat.high)}).` : "")
      + (draw ? ` Between equals a draw is ${draw.value.toPrecision(2)} times as likely as a win.` : "")),
    el("div", {class: "wide"}, el("table", {class: "full"}, el("thead", {}, el("tr", {}, header.map((h, k) => el("th", {class: k === 1 ? "left name" : k === 2 ? "left" : k === 3 ? "picture" : ""}, h)))), el("tbody", {}, body))));
}
function heat() {
  const cross = S.cross_table;
  const colour = x => x >= .5 ? `color-mix(in srgb, var(--win) ${200 * x - 100}%, var(--even))` : `color-mix(in srgb, var(--loss) ${100 - 200 * x}%, var(--even))`;
  const body = cross.names.map((name, i) => el("tr", {}, el("th", {class: "name", title: name}, `${i + 1}  ${name}`), cross.score[i].map((x, j) => {
    if (i === j || x === null) return el("td", {class: "self"}, i === j ? "" : "–");
    const cell = el("td", {}, el("a", {href: listing({entrant: i, vs: j}), title: `${name} against ${cross.names[j]}: ${percent(x, 1)} of ${cross.games[i][j]} games`}, (100 * x).toFixed(0)));
    cell.style.background = colour(x);
    return cell;
  })));
  const section = el("section", {class: "cross"}, el("h2", {}, "Who scores what against whom"), el("p", {class: "soft"}, "Percent, rows against columns. A cell leads to its games."),
    el("div", {class: "wide"}, el("table", {class: "heat"}, el("thead", {}, el("tr", {}, el("th", {}), cross.names.map((name, k) => el("th", {title: name}, String(k + 1))))), el("tbody", {}, body))));
  section.style.setProperty("--cell", Math.max(24, Math.min(40, Math.floor(960 / cross.names.length) - 4)) + "px");
  return section;
}
function graph() {
  const score = S.cross_table.score, n = D.names.length, all = [...Array(n).keys()];
  const beats = (i, j) => i !== j && score[i][j] !== null && score[i][j] > .5 + 1e-9;
  const reach = all.map(i => all.map(j => beats(i, j)));
  for (const k of all) for (const i of all) if (reach[i][k]) for (const j of all) reach[i][j] ||= reach[k][j];
  const place = k => [170 + 135 * Math.sin(2 * Math.PI * k / n), 170 - 135 * Math.cos(2 * Math.PI * k / n)];
  const edges = [], cycles = [];
  for (const i of all) for (const j of all) if (beats(i, j)) {
    const [[x0, y0], [x1, y1]] = [place(i), place(j)], length = Math.hypot(x1 - x0, y1 - y0), hot = reach[j][i];
    const [dx, dy] = [(x1 - x0) / length, (y1 - y0) / length], path = {x1: x0 + 16 * dx, y1: y0 + 16 * dy, x2: x1 - 20 * dx, y2: y1 - 20 * dy};
    const title = `${D.names[i]} scores ${percent(score[i][j], 1)} against ${D.names[j]}`;
    edges.push([hot, svgElement("a", {href: listing({entrant: i, vs: j})}, svgElement("title", {}, title), svgElement("line", {class: "hit", ...path}),
      svgElement("line", {class: hot ? "edge hot" : "edge", ...path, "stroke-width": 1 + 3 * (2 * score[i][j] - 1), "marker-end": hot ? "url(#tip-hot)" : "url(#tip)"}))]);
    for (const k of all) if (i < j && i < k && beats(j, k) && beats(k, i)) cycles.push([i, j, k]);
  }
  const tip = (id, fill) => svgElement("marker", {id, viewBox: "0 0 10 10", refX: 5, refY: 5, markerWidth: 9, markerHeight: 9, markerUnits: "userSpaceOnUse", orient: "auto"},
    svgElement("path", {d: "M0 0 10 5 0 10z", style: `fill: var(${fill})`}));
  const picture = svgElement("svg", {viewBox: "0 0 340 340", role: "img", "aria-label": "who beats whom"}, svgElement("defs", {}, tip("tip", "--soft"), tip("tip-hot", "--hot")),
    edges.sort((a, b) => a[0] - b[0]).map(e => e[1]),
    all.map(k => { const [x, y] = place(k); return svgElement("g", {}, svgElement("title", {}, D.names[k]), svgElement("circle", {class: "node", cx: x, cy: y, r: 14}), svgElement("text", {x, y}, String(k + 1))); }));
  const conclusion = cycles.length ? [el("p", {class: "hot"}, `${count(cycles.length)} cycle${cycles.length > 1 ? "s" : ""} of three`),
    ...cycles.slice(0, 6).map(c => el("div", {}, [...c, c[0]].map(k => D.names[k]).join(" → ")))]
    : [el("p", {class: "soft"}, edges.some(e => e[0]) ? "There are cycles of more than three." : "No cycles: who beats whom is an order.")];
  return el("section", {}, el("h2", {}, "Who beats whom"), el("p", {class: "soft"}, "Each arrow starts at the entrant that scores more than half; cycles are highlighted. Numbers are places on the leaderboard."),
    el("div", {class: "graph"}, picture, el("div", {}, conclusion)));
}
function theory() {
  const body = T.names.map((name, k) => {
    const worst = T.worst[k];
    return el("tr", {}, el("td", {class: "name"}, name), ...(T.nash ? [T.alpha_rank[k], T.nash[k]] : []).map(mass => el("td", {}, el("a", {href: listing({entrant: k})}, percent(mass, 1)))),
      worst ? el("td", {class: "left"}, el("a", {href: listing({entrant: k, vs: D.names.indexOf(worst.opponent)})}, `${worst.opponent} (${percent(worst.score, 1)})`)) : el("td", {}, "–"));
  });
  const conclusion = T.missing ? `${count(T.missing)} pairings never met, so there is no alpha-rank, Nash or Smith set.`
    : T.condorcet ? `${T.condorcet} scores above one half against every other entrant (Condorcet winner).` : `No entrant beats all others; the Smith set is ${T.smith.join(", ")}.`;
  return el("section", {}, el("h2", {}, "Game theory"), el("p", {}, conclusion), el("p", {class: "soft"}, `Cyclic share ${percent(T.cyclic_share, 1)}: what no rating explains, chance included.`),
    el("div", {class: "wide"}, el("table", {class: "full"}, el("thead", {}, el("tr", {}, ["entrant", ...(T.nash ? ["alpha-rank", "Nash"] : []), "scores least against"].map((h, k, all) => el("th", {class: k === 0 || k === all.length - 1 ? "left" : ""}, h)))), el("tbody", {}, body))));
}
function decisive() {
  const upsets = D.notable.filter(k => D.rows[k][5] > 500).length, list = el("ul", {class: "games"}, D.notable.slice(0, 12).map(line));
  const more = D.notable.length > 12 ? el("button", {type: "button"}, `show all ${D.notable.length}`) : null;
  more?.addEventListener("click", () => { list.append(...D.notable.slice(12).map(line)); more.remove(); });
  return el("section", {}, el("h2", {}, "Decisive games"),
    el("p", {class: "soft"}, D.notable.length ? `Upsets first (${upsets}): games whose winner was expected to score least.` : "None can be watched in this page."), list, more);
}
// A row for each entrant and kind of fault; its matches are inside, and are added when it is opened.
function faults() {
  if (!S.faults) return null;
  const groups = S.fault_groups.map(group => {
    const own = D.faults.filter(f => f[1] === group.entrant && f[3] === group.kind), list = el("ul", {class: "games"});
    const line = ([id, entrant, seat, kind, reason]) => el("li", {}, el("a", {class: "play", href: "#game=" + encodeURIComponent(id)}, "match"), el("span", {}, el("code", {}, id), ` as ${seat}: ${reason}`));
    const fold = el("details", {}, el("summary", {}, el("b", {class: "entrant"}, group.entrant), el("span", {class: "kind"}, KINDS[group.kind] || group.kind),
      el("span", {class: "times"}, `${count(group.count)} ${group.count === 1 ? "match" : "matches"}`), el("span", {class: "why"}, group.reason)), list);
    let numShown = 0;
    const grow = () => {
      list.append(...own.slice(numShown, numShown + FAULTS_PER_CLICK).map(line));
      numShown += FAULTS_PER_CLICK;
      if (numShown >= own.length && own.length < group.count) list.append(el("li", {class: "soft"}, `${count(group.count - own.length)} more are not listed in this page.`));
      if (numShown >= own.length) return;
      const more = el("button", {type: "button"}, `show ${count(Math.min(FAULTS_PER_CLICK, own.length - numShown))} more of ${count(own.length)}`);
      more.addEventListener("click", () => { more.parentNode.remove(); grow(); });
      list.append(el("li", {}, more));
    };
    fold.addEventListener("toggle", () => { if (fold.open && !numShown) grow(); });
    return fold;
  });
  const least = groups.splice(FAULTS_PER_CLICK), place = el("div", {class: "faults"}, groups);
  const more = least.length ? el("button", {type: "button"}, `show ${count(least.length)} more`) : null;
  more?.addEventListener("click", () => { place.append(...least); more.remove(); });
  return el("section", {}, el("h2", {}, "Forfeits"), el("p", {class: "soft"}, `${count(S.faults)} matches were lost by forfeit. Each line is an entrant, its fault, how often, and the reason of the first; it opens to its matches.`), place, more);
}
function notes() {
  const embedded = Object.keys(D.watch).length;
  return el("section", {}, el("h2", {}, "Schedule and replays"),
    el("p", {}, `${count(S.matches)} of ${count(S.matches + S.missing)} matches of the schedule were played. ${count(S.faults)} ended by forfeit.`),
    el("p", {class: "soft"}, `${count(embedded)} games can be watched here; any other with `, el("code", {}, `rl-lab tournament replay ${quoted(D.dir)} ID`), "."),
    ...D.missing.map(text => el("p", {class: "bad"}, `Not here: ${text}.`)),
    D.unlisted ? el("p", {class: "bad"}, `${count(D.unlisted)} games count but are not listed in this page.`) : null,
    el("p", {class: "tag"}, D.made));
}
const quoted = word => /^[\w@%+=:,./-]+$/.test(word) ? word : "'" + word.replaceAll("'", "'\"'\"'") + "'";

// ---- the drawer: a list of games, or one of them being played --------------------------------------------------------
const drawer = document.getElementById("drawer"), inside = drawer.querySelector(".inside");
let timer = 0, before = "";  // of the game that is playing; the hash of the list from which a game was opened
function open(title, ...children) {
  drawer.querySelector("h2").textContent = title;
  inside.replaceChildren(...children.filter(child => child !== null));
  if (!drawer.open) drawer.showModal();
  drawer.scrollTop = 0;
}
function list(filter) {
  const games = select(filter), name = key => D.names[Number(filter.get(key))];
  const title = [filter.has("entrant") ? name("entrant") : "all", filter.has("vs") ? `against ${name("vs")}` : "", filter.has("seat") ? `as ${D.seats[Number(filter.get("seat"))]}` : "",
    filter.get("result") || "", filter.has("forfeit") ? "forfeits" : ""].filter(Boolean).join(" ");
  const items = el("ul", {class: "games"}, games.slice(0, MAX_LISTED_GAMES).map(line));
  const watchable = sum(games.map(k => k in D.watch ? 1 : 0));
  open(`${title}: ${count(games.length)} games`, el("p", {class: "soft"}, `${count(watchable)} can be watched here.`), items);
  if (games.length > MAX_LISTED_GAMES) {
    const more = el("button", {type: "button"}, `show ${count(games.length - MAX_LISTED_GAMES)} more`);
    more.addEventListener("click", () => { items.append(...games.slice(MAX_LISTED_GAMES).map(line)); more.remove(); });
    inside.append(more);
  }
}
function game(id) {
  const k = D.rows.findIndex(g => matchId(g) === id);
  if (k < 0) return open("no such game", el("p", {}, id));
  const g = D.rows[k], words = [el("p", {}, `${seatingText(g)}: ${resultText(g)}.`), el("p", {}, el("code", {}, `rl-lab tournament replay ${quoted(D.dir)} ${quoted(id)}`))];
  const back = before ? el("a", {href: before}, "← back to the list") : null;
  if (!(k in D.watch)) return open(id, back, ...words, el("p", {class: "soft"}, "This game is not in the page; the command makes a film of it."));
  const {every, frames} = D.watch[k], lists = [];
  for (const [start, end, ...middle] of frames) {
    const last = lists.at(-1) || [];
    lists.push([...last.slice(0, start), ...middle, ...last.slice(last.length - end)]);
  }
  const view = lists[0].map(s => D.shapes[s]).find(s => s[0] === "v") || ["v", 0, 0, 1, 1];
  const aspect = Math.min(Math.max((view[3] - view[1]) / (view[4] - view[2]), .6), 1.7), width = Math.min(innerWidth - 70, 480, .55 * innerHeight * aspect);
  const canvas = el("canvas", {id: "board", width: Math.round(2 * width), height: Math.round(2 * width / aspect)});
  canvas.style.width = width + "px";
  const slider = el("input", {type: "range", min: 0, max: lists.length - 1, value: 0, "aria-label": "step"});
  const button = el("button", {type: "button"}), output = el("output");
  let at = 0;
  const show = to => {
    at = Math.min(Math.max(to, 0), lists.length - 1);
    slider.value = at;
    output.textContent = `step ${at === lists.length - 1 ? g[4] : at * every} of ${g[4]}`;
    canvas.dataset.frame = at;
    paint(canvas, lists[at]);
  };
  const stop = () => { clearInterval(timer); timer = 0; button.textContent = "▶ play"; };
  const play = () => {
    if (at === lists.length - 1) show(0);
    button.textContent = "❚❚ pause";
    timer = setInterval(() => at < lists.length - 1 ? show(at + 1) : stop(), Math.max(1000 * every / D.fps, 33));
  };
  button.addEventListener("click", () => timer ? stop() : play());
  slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
  const step = by => el("button", {type: "button", "aria-label": by < 0 ? "back" : "forward"}, by < 0 ? "‹" : "›");
  const steps = [step(-1), step(1)];
  steps.forEach((b, i) => b.addEventListener("click", () => { stop(); show(at + 2 * i - 1); }));
  open(id, back, canvas, el("div", {class: "controls"}, button, steps, slider, output), ...words);
  show(0);
  play();
}
// Draw the shapes with these numbers; rl_lab/rendering/json_canvas.py has their formats.
function paint(canvas, list) {
  const c = canvas.getContext("2d"), W = canvas.width, H = canvas.height;
  let u = 1, left = 0, bottom = H;
  const X = x => left + u * x, Y = y => bottom - u * y;
  const disc = (s, r) => { c.beginPath(); c.arc(X(s[1]), Y(s[2]), Math.max(r, 0), 0, 7); };
  const trace = points => { c.beginPath(); for (let k = 0; k < points.length; k += 2) c.lineTo(X(points[k]), Y(points[k + 1])); };
  for (const s of list.map(k => D.shapes[k])) {
    if (s[0] === "v") { u = Math.min(W / (s[3] - s[1]), H / (s[4] - s[2])); left = W / 2 - u * (s[1] + s[3]) / 2; bottom = H / 2 + u * (s[2] + s[4]) / 2; }
    else if (s[0] === "k") { c.fillStyle = s[1]; c.fillRect(0, 0, W, H); }
    else if (s[0] === "c") {
      const r = Math.max(u * s[3], 1);
      c.fillStyle = s[4]; disc(s, r); c.fill();
      if (s[5]) { c.strokeStyle = s[5]; c.lineWidth = Math.min(Math.max(u * s[6], 2), r); disc(s, r - c.lineWidth / 2); c.stroke(); }
    } else if (s[0] === "l") {
      c.strokeStyle = s[2]; c.lineWidth = Math.max(u * s[3], 2); c.lineCap = c.lineJoin = "round"; trace(s[1]);
      if (s[1].length === 2) c.lineTo(X(s[1][0]), Y(s[1][1]));
      c.stroke();
    } else if (s[0] === "p") { c.fillStyle = s[2]; trace(s[1]); c.fill(); }
    else if (s[0] === "r") {
      const [w, h] = [Math.abs(u * s[3]), Math.abs(u * s[4])];
      c.save(); c.translate(X(s[1]), Y(s[2])); c.rotate(-s[6]); c.fillStyle = s[5];
      c.beginPath(); c.roundRect(-w / 2, -h / 2, w, h, Math.min(u * s[7], w / 2, h / 2)); c.fill(); c.restore();
    } else if (s[0] === "t") { c.fillStyle = s[5]; c.font = `${.85 * u * s[4]}px system-ui, sans-serif`; c.textAlign = s[6]; c.textBaseline = "middle"; c.fillText(s[3], X(s[1]), Y(s[2])); }
  }
}
// Show what location.hash asks for: a list of games, a game, or the page alone.
function follow() {
  clearInterval(timer);
  timer = 0;
  const hash = location.hash;
  if (hash.startsWith("#games")) { before = hash; list(new URLSearchParams(hash.slice(7))); }
  else if (hash.startsWith("#game=")) game(decodeURIComponent(hash.slice(6)));
  else { before = ""; drawer.close(); }
}
drawer.querySelector("header button").addEventListener("click", () => drawer.close());
drawer.addEventListener("click", event => { if (event.target === drawer) drawer.close(); });
drawer.addEventListener("close", () => { clearInterval(timer); timer = 0; before = ""; if (location.hash) history.replaceState(null, "", location.pathname + location.search); });

const page = document.getElementById("page");
page.append(...head());
if (rows.length) page.append(board(), el("div", {class: "pair"}, heat(), graph()), theory(), decisive());
page.append(...[faults(), notes()].filter(Boolean));
addEventListener("hashchange", follow);
follow();
