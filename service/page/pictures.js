// A list of pictures: how it is laid out, and what stands below each.

import { Failure } from './api.js';
import { label, make, oneIn } from './words.js';

const ratios = new Map(); // address of a thumbnail -> width by height, once it is known

const shown = (image) => `${image.thumbnail_url}?longest=512`;

/** Give pictures a moment to arrive, so that they come into sight together and nothing jumps. */
export async function loaded(images) {
  const arrivals = images.map(async (image) => {
    const picture = new Image();
    picture.src = shown(image);
    await picture.decode().catch(() => {});
    if (picture.naturalWidth) ratios.set(shown(image), picture.naturalWidth / picture.naturalHeight);
  });
  await Promise.race([Promise.all(arrivals), new Promise((resolve) => { setTimeout(resolve, 1200); })]);
}

/** One picture of the list: a link, which `choose` follows within the page. */
export function entry(image, href, choose, words = '', score = null) {
  const picture = make('img', { alt: [image.id, label(image)].filter(Boolean).join(', '), decoding: 'async' });
  const frame = make('span', { className: 'frame' }, picture);
  const link = make('a', { href, title: image.id }, frame);
  if (score !== null) {
    const line = make('i', {});
    line.style.setProperty('--nearness', Math.min(1, Math.max(0, score)));
    link.append(make('span', { className: 'nearness' }, line));
  }
  link.append(words);
  const item = make('li', {}, link);
  picture.src = shown(image);
  picture.onload = () => {
    picture.classList.add('shown');
    if (ratios.has(shown(image))) return;
    ratios.set(shown(image), picture.naturalWidth / picture.naturalHeight);
    arrange(item.parentElement);
  };
  link.onclick = (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return; // a new tab, as asked
    event.preventDefault();
    choose(picture);
  };
  return item;
}

/** Rows of about one height over the whole width, every picture in its own proportions. */
export function arrange(list) {
  if (!list) return; // the picture was taken away before it arrived
  const style = getComputedStyle(list);
  const width = list.getBoundingClientRect().width - 0.5; // so that rounding never breaks a row
  const gap = parseFloat(style.columnGap);
  const wanted = parseFloat(style.getPropertyValue('--row'));
  const narrowest = list.classList.contains('same') ? 1.15 : 0.56;
  const items = [...list.children].map((item) => {
    const ratio = ratios.get(item.querySelector('img').getAttribute('src')) ?? 1.5;
    return { item, ratio: Math.min(3, Math.max(narrowest, ratio)) }; // more of a strip is cut off
  });
  const height = (row, more = []) => {
    const all = [...row, ...more];
    return (width - gap * (all.length - 1)) / all.reduce((sum, { ratio }) => sum + ratio, 0);
  };
  const set = (row, rowHeight) => {
    for (const { item, ratio } of row) {
      item.style.width = `${Math.floor(ratio * rowHeight * 10) / 10}px`;
      item.style.setProperty('--ratio', ratio);
    }
  };
  let row = [];
  let last = wanted * 1.2;
  for (const each of items) {
    if (row.length && Math.abs(height(row, [each]) - wanted) > Math.abs(height(row) - wanted)) {
      last = height(row);
      set(row, last);
      row = [];
    }
    row.push(each);
  }
  if (row.length) set(row, Math.min(height(row), last)); // perhaps not full
}

export function caption(name, score = null) {
  const words = make('span', { className: 'caption' }, make('span', { className: 'name', ariaHidden: 'true' }, name));
  if (score !== null) {
    words.append(make('span', { className: 'score' }, make('span', { className: 'unseen' }, 'likeness '), score.toFixed(2)));
  }
  return words;
}

const TURNS = {
  mirrored: 'mirrored',
  turned_90: 'turned by 90°',
  turned_90_mirrored: 'turned and mirrored',
  turned_180: 'upside down',
  turned_180_mirrored: 'mirrored top to bottom',
  turned_270: 'turned by 90°',
  turned_270_mirrored: 'turned and mirrored',
};

export const CERTAIN = {
  exact: ['The same file', 'every byte'],
  pixels: ['The same picture', 'every pixel'],
};

const WHOLE = 0.995;

function why(match) {
  if (match.tier in CERTAIN) return CERTAIN[match.tier];
  if (match.evidence.verdict) return ['A copy', 'as people said'];
  if (match.evidence.verified) return verified(match);
  return [
    ['Likely a copy', TURNS[match.evidence.orientation]].filter(Boolean).join(', '),
    `at most ${oneIn(match.false_match_rate)} by chance`,
  ];
}

export function copyCaption(match) {
  const [tier, detail] = why(match);
  return make(
    'span',
    { className: 'caption words' },
    make('span', { className: 'tier' }, tier),
    make('span', {}, detail),
    make('span', { className: 'name', ariaHidden: 'true' }, match.id),
  );
}

/** What a second look saw: how the picture asked about lies on this one. */
function verified({ evidence }) {
  const turned = Math.round(Math.abs(evidence.rotation));
  const more = evidence.overlap < WHOLE && evidence.query_overlap >= WHOLE;
  const part = evidence.query_overlap < WHOLE && evidence.overlap >= WHOLE;
  const changes = [
    evidence.flipped && 'mirrored',
    turned > 0 && `turned by ${turned}°`,
    more && 'with more around it',
    part && `of ${Math.round(100 * evidence.query_overlap)} % of it`,
  ].filter(Boolean);
  const reason = evidence.inliers
    ? `${evidence.inliers} details lie where they should`
    : `${Math.round(100 * evidence.agreement)} % of it is alike`;
  return [['A copy', ...changes].join(', '), reason];
}

/** A line beside a button that says why it failed; none where nothing did. */
export function failed(button, error) {
  const beside = button.nextElementSibling;
  if (beside?.classList.contains('failed')) beside.remove();
  if (error) button.after(make('p', { className: 'failed' }, `${error.message} ${error.detail}`));
}

/** The button that says otherwise, and takes it back; `decide` tells the service. */
export function doubt(match, decide, announce) {
  const button = make('button', { type: 'button', className: 'link doubt' });
  const show = (different) => {
    button.textContent = different ? 'Undo' : 'Not the same';
    button.setAttribute('aria-label', `${button.textContent}: ${match.id}`);
    button.closest('li')?.classList.toggle('different', different);
  };
  show(false);
  let different = false;
  button.onclick = async () => {
    button.disabled = true;
    failed(button, null);
    try {
      await decide(different ? match.evidence.verdict ?? null : 'different');
      different = !different;
      show(different);
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      failed(button, error);
      announce(`${error.message} ${error.detail}`);
    } finally {
      button.disabled = false;
    }
  };
  return button;
}
