// Draws what the daemon found, charts by Chart.js: live from state.json, or once from data in the page (hotset report).
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

Chart.defaults.color = style('--faint');
Chart.defaults.borderColor = style('--line');
Chart.defaults.font.size = 11;

// A canvas keeps the chart that was made on it first; new data go into that one. `labels` are of the
// values, which may be null, of each of `series` {name, values}. is_share: the scale ends at 100 %.
function draw(id, type, labels, series, is_share) {
  const chart = Chart.getChart(id) || new Chart(id, {
    type,
    data: { labels: [], datasets: [] },
    options: {
      animation: false,
      maintainAspectRatio: false,
      interaction: { mode: 'index', intersect: false },
      plugins: {
        legend: {
          display: series.length > 1, position: 'bottom', labels: { boxWidth: 12, boxHeight: 2 },
        },
      },
      scales: {
        x: { grid: { display: false }, ticks: { maxRotation: 0, autoSkipPadding: 24 } },
        y: is_share ?
          { min: 0, max: 1, ticks: { stepSize: 0.5, callback: (x) => 100 * x + ' %' } } :
          { min: 0, ticks: { maxTicksLimit: 4 } },
      },
    },
  });
  chart.data.labels = labels;
  series.forEach(({ name, values }, i) => {
    const set = chart.data.datasets[i] ||= {
      label: name, borderColor: colours[i], backgroundColor: colours[i],
      borderWidth: type === 'line' ? 1.5 : 0,
    };
    set.data = values;
    set.pointRadius = values.length === 1 ? 2 : 0;
  });
  chart.update('none');
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
  const times = column((t) => new Date(t.unix_ms).toLocaleTimeString());
  draw('hit-rate', 'line', times, [
    { name: '10 s', values: column((t) => t.hit_rate_10s) },
    { name: '1 min', values: column((t) => t.hit_rate_60s) },
    { name: 'all', values: column((t) => t.hit_rate) }], true);
  draw('latency', 'line', times, ['p50', 'p90', 'p99'].map(
    (name) => ({ name, values: column((t) => t.token_ms[name]) })), false);
  draw('split', 'line', times, ['compute', 'reads', 'card', 'other'].map(
    (name) => ({ name, values: column((t) => t.split_ms[name]) })), false);
  if (last && last.layers) {
    const values = last.layers.map((l) => l.hit_rate);
    draw('layers', 'bar', values.map((_, layer) => layer), [{ name: 'hit rate', values }], true);
  }
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
  show(JSON.parse(embedded.textContent));
} else {
  refresh();
  setInterval(refresh, 1000);
}
