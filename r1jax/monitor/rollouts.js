// The rollout browser: filter, order and read the completions in the page, compare two of a group.
// Texts come from a model and are set as text only, never as markup.
(function () {
  'use strict';
  const root = document.getElementById('rollouts');
  if (!root) return;
  const steps = JSON.parse(root.querySelector('script').textContent);
  const form = root.querySelector('form'), list = root.querySelector('.list');
  const detail = root.querySelector('.detail'), count = root.querySelector('.count');
  const PAGE = 100; // entries of the list put into the document at a time
  const MOST_CELLS = 9e6; // of a comparison's table: 18 MB, a tenth of a second

  const samples = [];
  for (const step of steps) {
    for (const group of step.groups) {
      group.members = group.samples.map(function (row) {
        return Object.assign({ phase: step.phase, step: step.step, group: group }, row);
      });
      samples.push.apply(samples, group.members);
    }
  }
  let shown = samples, drawn = 0, current = -1, other = null;

  // --- filter and order -------------------------------------------------------------------------

  function verdict(sample) {
    if (sample.valid === false) return 'unjudged';
    return sample.correct === true ? 'right' : sample.correct === false ? 'wrong' : 'unjudged';
  }

  function haystack(sample) {
    if (sample.words === undefined) {
      const group = sample.group;
      sample.words = [group.prompt, sample.completion, sample.answer, group.reference, group.task]
        .filter(Boolean).join('\n').toLowerCase();
    }
    return sample.words;
  }

  function bounds(name) {
    return ['min', 'max'].map(function (end) {
      const text = form.elements[name + '_' + end].value;
      return text === '' ? null : Number(text);
    });
  }

  function within(value, ends) {
    if (ends[0] === null && ends[1] === null) return true;
    return value !== null && (ends[0] === null || value >= ends[0])
      && (ends[1] === null || value <= ends[1]);
  }

  // What is not known comes last, whichever way the rest goes.
  function by(name, sign) {
    return function (a, b) {
      const x = a[name], y = b[name];
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (x - y);
    };
  }

  const ORDERS = {
    newest: by('step', -1), oldest: by('step', 1), worst: by('reward', 1), best: by('reward', -1),
    longest: by('length', -1), shortest: by('length', 1)
  };

  function apply() {
    const needle = form.elements.text.value.toLowerCase(), wanted = form.elements.verdict.value;
    const step = bounds('step'), reward = bounds('reward'), length = bounds('length');
    shown = samples.filter(function (sample) {
      const fits = wanted === '' || verdict(sample) === wanted
        || (wanted === 'cut' && sample.finished === false);
      return fits && within(sample.step, step) && within(sample.reward, reward)
        && within(sample.length, length) && (needle === '' || haystack(sample).includes(needle));
    });
    shown.sort(ORDERS[form.elements.order.value]); // a stable sort: the log's order breaks ties
    list.replaceChildren();
    list.scrollTop = 0;
    drawn = 0;
    draw();
    count.textContent = shown.length === samples.length
      ? samples.length.toLocaleString('en') + ' completions'
      : shown.length.toLocaleString('en') + ' of ' + samples.length.toLocaleString('en')
        + ' completions';
    select(0);
  }

  // --- the list ---------------------------------------------------------------------------------

  function make(tag, classes, text) {
    const element = document.createElement(tag);
    if (classes) element.className = classes;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  function number(value) {
    return value === null ? '–' : String(Math.round(value * 1000) / 1000).replace('-', '−');
  }

  const KIND = { right: 'pass', wrong: 'fail', unjudged: 'unsure' };

  function badge(sample) {
    const word = verdict(sample);
    return make('span', 'badge ' + KIND[word], word === 'unjudged' ? 'not judged' : word);
  }

  function entry(sample, place) {
    const row = make('div', 'entry');
    row.id = 'rollout-' + place;
    row.setAttribute('role', 'option');
    row.setAttribute('aria-selected', 'false');
    const head = make('div', 'facts');
    head.append(badge(sample), make('span', '', 'step ' + sample.step),
      make('span', '', 'reward ' + number(sample.reward)));
    if (sample.length !== null) {
      head.append(make('span', '', sample.length + (sample.length === 1 ? ' token' : ' tokens')));
    }
    if (sample.finished === false) head.append(make('span', '', 'cut'));
    const first = sample.completion.trim().slice(0, 160).replace(/\s+/g, ' ');
    row.append(head, make('div', 'first', first === '' ? '(empty)' : first));
    row.addEventListener('click', function () { select(place); });
    return row;
  }

  function draw() {
    list.querySelectorAll('button').forEach(function (button) { button.remove(); });
    const end = Math.min(drawn + PAGE, shown.length);
    for (; drawn < end; drawn++) list.append(entry(shown[drawn], drawn));
    if (drawn < shown.length) {
      const left = (shown.length - drawn).toLocaleString('en');
      const more = make('button', '', left + ' more');
      more.type = 'button';
      more.addEventListener('click', function () { draw(); list.focus(); });
      list.append(more);
    }
  }

  function select(place) {
    const before = list.querySelector('[aria-selected=true]');
    if (before) before.setAttribute('aria-selected', 'false');
    other = null;
    if (!shown.length) {
      current = -1;
      list.removeAttribute('aria-activedescendant');
      detail.replaceChildren(make('p', 'note', 'No completion fits these filters.'));
      return;
    }
    current = Math.max(0, Math.min(shown.length - 1, place));
    while (drawn <= current) draw();
    const row = document.getElementById('rollout-' + current);
    row.setAttribute('aria-selected', 'true');
    list.setAttribute('aria-activedescendant', row.id);
    const top = row.offsetTop - list.offsetTop, bottom = top + row.offsetHeight;
    if (top < list.scrollTop) list.scrollTop = top;
    if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
    read();
  }

  // --- one sample, or two side by side ----------------------------------------------------------

  function facts(sample) {
    const line = make('div', 'facts');
    line.append(badge(sample));
    const told = [['reward', number(sample.reward)]];
    for (const name in sample.parts) told.push([name, number(sample.parts[name])]);
    if (sample.length !== null) told.push(['tokens', sample.length.toLocaleString('en')]);
    for (const pair of told) {
      const fact = make('span', '', pair[0] + ' ');
      fact.append(make('b', '', pair[1]));
      line.append(fact);
    }
    if (sample.finished === false) line.append(make('span', '', 'cut at the longest length'));
    const age = sample.policy === null ? 0 : sample.step - sample.policy;
    if (age) line.append(make('span', '', 'begun ' + age + (age === 1 ? ' step' : ' steps') + ' before'));
    return line;
  }

  function answers(sample) {
    const line = make('div', 'answers'), pairs = [];
    if (sample.answer !== null) pairs.push(['answer', sample.answer]);
    if (sample.group.reference) pairs.push(['reference', sample.group.reference]);
    for (const pair of pairs) {
      const part = make('div', '');
      part.append(make('span', 'note', pair[0]), make('pre', '', pair[1]));
      line.append(part);
    }
    return line;
  }

  // The text with what is searched for marked.
  function text(classes, content) {
    const pre = make('pre', classes), needle = form.elements.text.value.toLowerCase();
    const low = content.toLowerCase();
    pre.tabIndex = 0;
    let at = 0;
    // Lower case may have another length ("İ"): then places do not agree, and nothing is marked.
    for (let hit; needle && low.length === content.length
      && (hit = low.indexOf(needle, at)) >= 0; at = hit + needle.length) {
      pre.append(content.slice(at, hit), make('mark', '', content.slice(hit, hit + needle.length)));
    }
    pre.append(content.slice(at));
    return pre;
  }

  function title(sample) {
    const said = [sample.phase + ' step ' + sample.step];
    if (sample.group.id !== null) said.push('question ' + sample.group.id);
    if (sample.group.task) said.push(sample.group.task);
    return said.join(' · ');
  }

  function siblings(sample) {
    const bar = make('div', 'siblings');
    bar.setAttribute('role', 'group');
    bar.setAttribute('aria-label', 'samples of this question');
    for (const member of sample.group.members) {
      const word = verdict(member);
      const button = make('button', '', 'sample ' + member.sample + ' · ' + word);
      button.type = 'button';
      if (member === sample) {
        button.setAttribute('aria-current', 'true');
        button.title = 'this one';
        button.addEventListener('click', function () { compare(null); });
      } else {
        button.setAttribute('aria-pressed', String(member === other));
        button.title = 'compare with this one';
        button.addEventListener('click', function () { compare(member === other ? null : member); });
      }
      bar.append(button);
    }
    return bar;
  }

  function read() {
    const sample = shown[current], group = sample.group;
    const parts = [make('h3', '', title(sample)), text('prompt', group.prompt)];
    if (group.members.length > 1) {
      parts.push(make('p', 'note', 'Samples of this question; choose another one to compare:'));
      parts.push(siblings(sample));
    }
    if (other) {
      parts.push(comparison(sample, other));
    } else {
      parts.push(text('completion', sample.completion), facts(sample), answers(sample));
    }
    detail.replaceChildren.apply(detail, parts);
  }

  function compare(member) {
    const inside = detail.contains(document.activeElement);
    other = member;
    read();
    if (inside) detail.querySelector('[aria-pressed=true],[aria-current]').focus();
  }

  // --- word diff --------------------------------------------------------------------------------

  const WORDS = /\s+|[\p{L}\p{N}\p{M}_]+|[^\s\p{L}\p{N}]/gu, LINES = /[^\n]*\n|[^\n]+/g;

  // Which words of either side have no partner on the other; null where that is too much work.
  function unmatched(a, b) {
    let head = 0, tail = 0;
    while (head < a.length && head < b.length && a[head] === b[head]) head++;
    while (tail < a.length - head && tail < b.length - head
      && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail++;
    const n = a.length - head - tail, m = b.length - head - tail, wide = m + 1;
    if (n > 65000 || m > 65000 || (n + 1) * wide > MOST_CELLS) return null;
    const best = new Uint16Array((n + 1) * wide); // longest common subsequence of what is left
    for (let i = n - 1; i >= 0; i--) {
      for (let j = m - 1; j >= 0; j--) {
        best[i * wide + j] = a[head + i] === b[head + j]
          ? best[(i + 1) * wide + j + 1] + 1
          : Math.max(best[(i + 1) * wide + j], best[i * wide + j + 1]);
      }
    }
    const left = new Set(), right = new Set();
    let i = 0, j = 0;
    while (i < n || j < m) {
      if (i < n && j < m && a[head + i] === b[head + j]) { i++; j++; }
      else if (j >= m || (i < n && best[(i + 1) * wide + j] >= best[i * wide + j + 1])) {
        left.add(head + i++);
      } else right.add(head + j++);
    }
    return [left, right];
  }

  function marked(words, odd, tag) {
    const pre = make('pre', 'completion');
    pre.tabIndex = 0;
    for (let start = 0, end; start < words.length; start = end) {
      for (end = start + 1; end < words.length && odd.has(end) === odd.has(start);) end++;
      const piece = words.slice(start, end).join('');
      pre.append(odd.has(start) ? make(tag, '', piece) : piece);
    }
    return pre;
  }

  function comparison(sample, rival) {
    const box = make('div', 'comparison');
    let a, b, odd = null;
    for (const unit of [WORDS, LINES]) {
      if (odd) break;
      a = sample.completion.match(unit) || [];
      b = rival.completion.match(unit) || [];
      odd = unmatched(a, b);
    }
    if (!odd) {
      odd = [new Set(), new Set()];
      box.append(make('p', 'note', 'Too long to compare: nothing is marked.'));
    } else if (!odd[0].size && !odd[1].size) {
      box.append(make('p', 'note', 'Both say the same.'));
    }
    [[sample, a, odd[0], 'del'], [rival, b, odd[1], 'ins']].forEach(function (side) {
      const column = make('div', '');
      column.append(make('h4', '', 'sample ' + side[0].sample),
        marked(side[1], side[2], side[3]), facts(side[0]), answers(side[0]));
      box.append(column);
    });
    return box;
  }

  // --- keys -------------------------------------------------------------------------------------

  function turn(by) { // to another sample of the same question
    const members = shown[current].group.members;
    const at = members.indexOf(other || shown[current]);
    const next = members[(at + by + members.length) % members.length];
    if (other) return compare(next === shown[current] ? members[(at + 2 * by + members.length)
      % members.length] : next);
    const place = shown.indexOf(next);
    if (place >= 0) select(place);
  }

  const KEYS = {
    ArrowDown: function () { select(current + 1); }, j: function () { select(current + 1); },
    ArrowUp: function () { select(current - 1); }, k: function () { select(current - 1); },
    PageDown: function () { select(current + 10); }, PageUp: function () { select(current - 10); },
    Home: function () { select(0); }, End: function () { select(shown.length - 1); },
    '[': function () { turn(-1); }, ']': function () { turn(1); },
    d: function () {
      const members = shown[current].group.members;
      const next = members[(members.indexOf(shown[current]) + 1) % members.length];
      compare(other || next === shown[current] ? null : next);
    },
    Escape: function () { compare(null); },
    '/': function () { form.elements.text.focus(); form.elements.text.select(); }
  };
  const SCROLLING = ['ArrowDown', 'ArrowUp', 'PageDown', 'PageUp', 'Home', 'End'];

  root.addEventListener('keydown', function (event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest('form')) {
      if (event.key === 'Escape' || (event.key === 'Enter' && event.target.tagName === 'INPUT')) {
        event.preventDefault();
        list.focus();
      }
      return;
    }
    // A text that has the focus scrolls by these keys.
    if (SCROLLING.includes(event.key) && event.target !== list) return;
    const act = KEYS[event.key];
    if (!act || (current < 0 && event.key !== '/')) return;
    event.preventDefault();
    act();
  });
  form.addEventListener('submit', function (event) { event.preventDefault(); });
  form.addEventListener('input', apply);
  form.addEventListener('reset', function () { setTimeout(apply); });
  apply();
})();
