// Draws what the daemon found: live from state.json, or once from data in the page (hotset report).
'use strict';

const colours = ['#2f6fde', '#e0803a', '#2f9e5f', '#9a5bd0'];
const byId = (id) => document.getElementById(id);
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const percent = (x) => (100 * x).toFixed(1) + ' %';

function bytes(n) {
  const units = ['B', 'KB', 'MB', 'GB', 'TB'];
  let unit = 0;
  while (n >= 1000 && unit < units.length - 1) { n /= 1000; ++unit; }
  return (unit === 0 ? n : n.toFixed(1)) + ' ' + units[unit];
}

// A canvas with as many pixels as the screen has for it; returns its context, in CSS pixels.
function prepared(canvas, height) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth || 300;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext('2d');
  context.scale(ratio, ratio);
  context.clearRect(0, 0, width, height);
  context.font = '11px system-ui, sans-serif';
  return { context, width, height };
}

// Series of {name, values}; values may be null. `most`: the top of the scale, 0: the largest value.
function lines(canvas, series, most) {
  const { context, width, height } = prepared(canvas, 180);
  const left = 40, bottom = height - 22, top = 8;
  const all = series.flatMap((s) => s.values.filter((v) => v !== null));
  const scale = most || Math.max(1e-3, ...all) * 1.1;
  context.strokeStyle = style('--line');
  context.fillStyle = style('--faint');
  for (const part of [0, 0.5, 1]) {
    const y = bottom - part * (bottom - top);
    context.beginPath();
    context.moveTo(left, y);
    context.lineTo(width, y);
    context.stroke();
    context.fillText(most === 1 ? percent(part * scale).replace('.0', '') : (part * scale).toPrecision(3), 0, y + 4);
  }
  series.forEach((s, index) => {
    context.strokeStyle = context.fillStyle = colours[index];
    context.lineWidth = 1.5;
    context.beginPath();
    const step = (width - left - 4) / Math.max(1, s.values.length - 1);
    let is_down = false;
    s.values.forEach((value, i) => {
      if (value === null) { is_down = false; return; }
      const x = left + i * step, y = bottom - Math.min(1, value / scale) * (bottom - top);
      if (is_down) context.lineTo(x, y); else context.moveTo(x, y);
      is_down = true;
      if (s.values.length === 1) context.fillRect(x, y - 1, 4, 3);
    });
    context.stroke();
    context.fillText(s.name, left + index * 90, height - 4);
  });
}

function bars(canvas, values) {
  const { context, width, height } = prepared(canvas, 180);
  const step = width / Math.max(1, values.length);
  values.forEach((value, i) => {
    context.fillStyle = colours[0];
    context.fillRect(i * step, (height - 18) * (1 - value), Math.max(1, step - 1), (height - 18) * value);
  });
  context.fillStyle = style('--faint');
  context.fillText('layer 0', 0, height - 4);
  context.fillText(String(values.length - 1), width - 20, height - 4);
}

// Rows of digits: one pixel an expert, scaled up by the browser.
function heat(canvas, rows) {
  if (!rows || rows.length === 0) return;
  canvas.width = rows[0].length;
  canvas.height = rows.length;
  canvas.style.height = Math.min(600, Math.max(6, 300 / rows.length) * rows.length) + 'px';
  const context = canvas.getContext('2d');
  const image = context.createImageData(canvas.width, canvas.height);
  rows.forEach((row, y) => {
    for (let x = 0; x < row.length; ++x) {
      const h = Number(row[x]) / 9, at = 4 * (y * canvas.width + x);
      image.data[at] = Math.round(30 + 225 * h);
      image.data[at + 1] = Math.round(36 + 170 * h * h);
      image.data[at + 2] = Math.round(60 + 40 * (1 - h));
      image.data[at + 3] = 255;
    }
  });
  context.putImageData(image, 0, 0);
}

function facts(engine) {
  const share = engine.predicted > 0 ? percent(engine.predicted_right / engine.predicted) : '-';
  const useful = engine.admissions > 0 ? percent(engine.admissions_hit / engine.admissions) : '-';
  const card = engine.card ? [
    ['card: hit rate, 10 s', percent(engine.card.hit_rate_10s)], ['all', percent(engine.card.hit_rate)],
    ['experts on the card', bytes(engine.card.resident_bytes) + ' of ' + bytes(engine.card.slot_bytes)],
  ] : [];
  return [
    ['model', engine.model], ['process', engine.pid],
    ['tokens', engine.tokens], ['tokens a second', engine.tokens_per_s],
    ['hit rate, 10 s', percent(engine.hit_rate_10s)], ['1 min', percent(engine.hit_rate_60s)],
    ['all', percent(engine.hit_rate)],
    ['token, p50', engine.token_ms.p50 + ' ms'], ['p90', engine.token_ms.p90 + ' ms'],
    ['p99', engine.token_ms.p99 + ' ms'],
    ['experts in memory', bytes(engine.resident_bytes) + ' of ' + bytes(engine.budget_bytes)],
    ['read', bytes(engine.bytes_read)], ['reuse distance, p50', engine.reuse_distance.p50],
    ['admitted', engine.admissions], ['... and hit later', useful], ['evicted', engine.evictions],
    ['predictor right', share], ...card, ['errors', engine.errors], ['records lost', engine.records_lost],
  ];
}

function show(state) {
  const last = state.engines[state.engines.length - 1];
  const ticks = state.history.filter((line) => line.token_ms);
  const pid = last ? last.pid : ticks.length > 0 ? ticks[ticks.length - 1].pid : 0;
  const history = ticks.filter((line) => line.pid === pid);  // of one engine: a line is one run's
  const column = (pick) => history.map(pick);
  byId('engines').replaceChildren(...state.engines.map((engine) => {
    const list = document.createElement('dl');
    for (const [name, value] of facts(engine)) {
      const item = document.createElement('div'), term = document.createElement('dt');
      const text = document.createElement('dd');
      term.textContent = name;
      text.textContent = value;
      item.append(term, text);
      list.append(item);
    }
    return list;
  }));
  lines(byId('hit-rate'), [
    { name: '10 s', values: column((t) => t.hit_rate_10s) },
    { name: '1 min', values: column((t) => t.hit_rate_60s) },
    { name: 'all', values: column((t) => t.hit_rate) }], 1);
  lines(byId('latency'), ['p50', 'p90', 'p99'].map(
    (name) => ({ name, values: column((t) => t.token_ms[name]) })), 0);
  lines(byId('split'), ['compute', 'reads', 'card', 'other'].map(
    (name) => ({ name, values: column((t) => t.split_ms[name]) })), 0);
  if (last && last.layers) bars(byId('layers'), last.layers.map((l) => l.hit_rate));
  if (last) heat(byId('heat'), last.heat);
  const slow = state.slow.slice(-20).reverse().map((line) => {
    const item = document.createElement('li');
    item.textContent = new Date(line.unix_ms).toLocaleTimeString() + '  ' + line.text;
    return item;
  });
  if (slow.length > 0) byId('slow').replaceChildren(...slow);
  const count = state.engines.length;
  byId('status').textContent = count === 0 ? 'no engine runs' : count === 1 ? 'one engine' :
    count + ' engines; the charts are of process ' + pid;
  document.body.dataset.ready = count > 0 ? 'yes' : 'no';
}

async function refresh() {
  try {
    const answer = await fetch('state.json' + location.search);
    if (!answer.ok) throw new Error(answer.statusText);
    show(await answer.json());
  } catch (error) {
    byId('status').textContent = 'the daemon does not answer: ' + error.message;
  }
}

const embedded = byId('data');
if (embedded) {
  const state = JSON.parse(embedded.textContent);
  show(state);
  addEventListener('resize', () => show(state));
} else {
  refresh();
  setInterval(refresh, 1000);
}
