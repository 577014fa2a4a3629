"""What a page does beyond text: tables sort, points tell their names to fingers, pictures are compared by a slider.

All of it is added by the script itself, so that a page without JavaScript is whole. The page's policy names this text
by its hash, and no other runs.
"""

SCRIPT = """
(() => {
'use strict';
function number(text) {
  const found = text.replace(/,/g, '').match(/[-+\\u2212]?\\d*\\.?\\d+(?:e[-+]?\\d+)?/i);
  return found ? parseFloat(found[0].replace('\\u2212', '-')) : NaN;
}
function sortBy(table, column, heading) {
  const body = table.tBodies[0], rows = Array.from(body.rows);
  const up = heading.getAttribute('aria-sort') !== 'ascending';
  const key = row => row.cells[column] ? row.cells[column].textContent.trim() : '';
  const shown = rows.map(key).filter(text => text !== '' && text !== '\\u2013');
  const numeric = shown.length > 0 && shown.every(text => /^[-+\\u2212]?[\\d.]/.test(text));
  rows.sort((a, b) => {
    const one = key(a), two = key(b);
    if (numeric) {
      const x = number(one), y = number(two);
      if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y);
      return up ? x - y : y - x;
    }
    return up ? one.localeCompare(two) : two.localeCompare(one);
  });
  for (const other of table.tHead.rows[0].cells) other.removeAttribute('aria-sort');
  heading.setAttribute('aria-sort', up ? 'ascending' : 'descending');
  body.append(...rows);
}
for (const table of document.querySelectorAll('table')) {
  if (!table.tHead || !table.tBodies.length || table.tBodies[0].rows.length < 2) continue;
  Array.from(table.tHead.rows[0].cells).forEach((heading, column) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.title = 'Sort';
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener('click', () => sortBy(table, column, heading));
  });
}
const told = document.createElement('div');
told.className = 'told';
told.setAttribute('role', 'status');
told.hidden = true;
document.body.append(told);
function tell(event) {
  const point = event.target.closest ? event.target.closest('svg .line, svg circle, .site') : null;
  const name = point && (point.querySelector(':scope > title') || {textContent: point.dataset.told || ''}).textContent;
  told.hidden = !name;
  if (!name) return;
  told.textContent = name;
  told.style.left = Math.max(8, Math.min(event.clientX + 12, window.innerWidth - told.offsetWidth - 8)) + 'px';
  told.style.top = Math.max(8, event.clientY - told.offsetHeight - 12) + 'px';
}
document.addEventListener('pointermove', tell);
document.addEventListener('pointerdown', tell);
document.querySelectorAll('.pair').forEach(pair => {
  const [under, over] = pair.querySelectorAll('figure');
  if (!over) return;
  const slider = document.createElement('input');
  slider.type = 'range';
  slider.min = 0;
  slider.max = 100;
  slider.value = 50;
  slider.setAttribute('aria-label', under.textContent.trim() + ' against ' + over.textContent.trim());
  const cut = () => { over.querySelector('img').style.clipPath = 'inset(0 0 0 ' + slider.value + '%)'; };
  slider.addEventListener('input', cut);
  pair.classList.add('compared');
  pair.append(slider);
  cut();
});
})();
"""
