// The page over the API: a picture goes in, its neighbours come out as pictures.
// Where one is stands in the address (?collection=demo&id=snow2.jpg&mode=same), so that back,
// reload and a shared link work; a picture from outside is kept in memory while the page is open.

import { Failure, collectionPath, damaged, imagePath, noCollection, otherEncoder, request } from './api.js';
import { arrange, caption, CERTAIN, copyCaption, doubt, entry, failed, loaded } from './pictures.js';
import { bytes, count, label, make, oneIn } from './words.js';

const PAGE = 24;
const SAMPLE = 18;
const LISTING = { images: 500, pages: 20 }; // where a sample is taken from: the first page that has any

const at = (id) => document.getElementById(id);
const uploads = new Map(); // what history.state.upload names -> { file, url }
const samples = new Map(); // collection -> pictures to begin with, the same until reloaded
let collections = []; // fetched with the first place that is shown, and again while there are none
let asking = new AbortController();

const collectionOf = (place) => collections.find((each) => each.name === place.collection);
const api = (path, options) => request(path, { signal: asking.signal, ...options });

function ask(place, offset = 0) {
  const base = collectionPath(place.collection);
  const [route, options] =
    place.mode === 'same' ? ['duplicates/check', { orientations: true, verify: true }] : ['search', { top_k: PAGE, offset }];
  if (place.upload) {
    const form = new FormData();
    form.set('file', uploads.get(place.upload).file);
    for (const [name, value] of Object.entries(options)) form.set(name, String(value));
    return api(`${base}/${route}/file`, { method: 'POST', body: form });
  }
  return api(`${base}/${route}`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ query: { id: place.id }, ...options }),
  });
}

// --- where one is -----------------------------------------------------------------------------

function here() {
  const query = new URLSearchParams(location.search);
  return {
    collection: query.get('collection') ?? (collections.find((each) => each.images) ?? collections[0])?.name,
    id: query.get('id'),
    upload: history.state?.upload ?? null,
    mode: query.get('mode') === 'same' ? 'same' : 'similar',
  };
}

function address({ collection, id, mode }) {
  const query = new URLSearchParams();
  if (collection) query.set('collection', collection);
  if (id) query.set('id', id);
  if (mode === 'same') query.set('mode', mode);
  const text = query.toString();
  return text ? `?${text}` : location.pathname;
}

/** Go to a place; `from` is the picture on the page that becomes the one asked about. */
async function go(place, { from = null, focus = true } = {}) {
  history.replaceState({ ...history.state, scroll: scrollY }, '');
  history.pushState({ upload: place.upload ?? null }, '', address(place));
  await show({ from, focus });
}

// --- showing a place --------------------------------------------------------------------------

async function show({ from = null, focus = false, scroll = 0 } = {}) {
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  document.body.classList.add('busy');
  let place;
  let paint;
  try {
    if (!collections.length) ({ collections } = await api('v1/collections'));
    place = here();
    paintMenu(place); // what is looked for may take seconds
    paint = await prepared(place);
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof Failure)) throw error;
    place ??= here();
    const others = await wayOn(place);
    paint = () => paintNotice(place, error.message, error.detail, null, others);
  }
  if (signal.aborted) return;
  await transition(from, paint);
  document.body.classList.remove('busy');
  if (focus) at('results').focus({ preventScroll: true });
  scrollTo(0, scroll);
}

/** Fetch what a place needs; what comes back paints it in one go. */
async function prepared(place) {
  if (!collections.length) {
    return () => paintNotice(place, 'There is no collection yet.', 'Index a folder of pictures, then reload this page:', 'kindred-index build FOLDER --collection NAME');
  }
  const collection = collectionOf(place);
  if (!collection) throw noCollection(place.collection);
  if (!collection.searchable) throw collection.encoder === null ? damaged() : otherEncoder(collection.reason);
  if (!place.id && !place.upload) {
    const pictures = await sample(place.collection);
    await loaded(pictures);
    return () => paintWelcome(place, collection, pictures);
  }
  if (place.upload && !uploads.has(place.upload)) {
    throw new Failure('That picture was not kept.', 'A picture from outside is forgotten when the page is reloaded. Drop it again, or choose another.');
  }
  const [answer, subject] = await Promise.all([ask(place), subjectOf(place)]);
  await loaded(answer.results ?? answer.matches);
  return () => paintAnswer(place, collection, subject, answer);
}

async function subjectOf(place) {
  if (place.upload) {
    const { file, url } = uploads.get(place.upload);
    return { name: file.name || 'Pasted picture', source: url, details: [bytes(file.size)] };
  }
  const image = await api(imagePath(place.collection, place.id));
  const source = `${image.thumbnail_url}?longest=1024`;
  const picture = new Image();
  picture.src = source;
  await picture.decode().catch(() => {}); // a picture that fails to load says so where it is shown
  return { name: image.id, source, details: [label(image), image.width && `${image.width} × ${image.height}`] };
}

async function sample(name) {
  if (!samples.has(name)) {
    let shown = [];
    let cursor = '';
    for (let page = 0; page < LISTING.pages && !shown.length && cursor !== null; page += 1) {
      const query = new URLSearchParams({ limit: LISTING.images, ...(cursor && { cursor }) });
      const listing = await api(`${collectionPath(name)}/images?${query}`);
      shown = listing.images.filter((image) => image.state === 'present');
      cursor = listing.next_cursor;
    }
    const step = Math.max(1, shown.length / SAMPLE);
    const start = Math.random() * step;
    const count = Math.min(SAMPLE, shown.length);
    samples.set(name, Array.from({ length: count }, (_, place) => shown[Math.floor(start + place * step) % shown.length]));
  }
  return samples.get(name);
}

/** Where something went wrong, pictures to go on from; none where there are none to be had. */
async function wayOn(place) {
  if (!collectionOf(place)?.searchable) return [];
  try {
    const pictures = await sample(place.collection);
    await loaded(pictures);
    return pictures;
  } catch (error) {
    if (error instanceof Failure || error.name === 'AbortError') return [];
    throw error;
  }
}

/** Paint, and let the picture that was chosen move to its new place where the browser can. */
async function transition(from, paint) {
  const subject = at('query-image');
  if (!document.startViewTransition || document.hidden) return paint();
  subject.style.viewTransitionName = from ? '' : 'subject';
  if (from) from.style.viewTransitionName = 'subject';
  const moving = document.startViewTransition(() => {
    if (from) from.style.viewTransitionName = '';
    subject.style.viewTransitionName = 'subject';
    paint();
  });
  moving.ready.catch(() => {}); // skipped, because the next one began: it is painted all the same
  await moving.updateCallbackDone;
}

// --- painting ---------------------------------------------------------------------------------

function paintMenu(place) {
  const select = at('collection');
  select.replaceChildren(
    ...(place.collection && !collectionOf(place) ? [new Option(`${place.collection} (not here)`, place.collection)] : []),
    ...collections.map((each) => new Option(`${each.name}${each.searchable ? '' : each.encoder === null ? ' (damaged)' : ' (another encoder)'}`, each.name)),
  );
  select.value = place.collection ?? '';
  select.closest('label').hidden = collections.length === 0;
}

function paintFrame(place, { asked = false, heading = '', title = null }) {
  paintMenu(place);
  document.querySelector('main').classList.toggle('asked', asked);
  at('query').hidden = !asked;
  at('welcome').hidden = true;
  at('notice').hidden = true;
  at('more').hidden = true;
  failed(at('more'), null);
  at('pictures').replaceChildren();
  at('pictures').className = `pictures ${asked ? place.mode : 'mosaic'}`;
  at('heading').textContent = heading;
  at('facts').textContent = '';
  document.title = title ? `${title} · Kindred` : 'Kindred';
  document.querySelector(`input[name=mode][value=${place.mode}]`).checked = true;
}

function paintWelcome(place, collection, pictures) {
  paintFrame(place, {});
  at('welcome').hidden = false;
  at('or-these').hidden = pictures.length === 0;
  at('pictures').replaceChildren(...pictures.map((image) => listed(place, image)));
  arrange(at('pictures'));
  at('facts').textContent = count(collection.images, 'picture');
  if (!pictures.length && !collection.images) {
    notice(`“${collection.name}” holds no pictures yet.`, 'Fill it from a folder, then reload this page:', `kindred-index build FOLDER --collection ${collection.name}`);
  }
}

function paintNotice(place, lead, detail, code = null, others = []) {
  paintFrame(place, {});
  notice(lead, detail, code);
  at('pictures').append(...others.map((image) => listed(place, image)));
  arrange(at('pictures'));
  announce(`${lead} ${detail}`);
}

function paintAnswer(place, collection, subject, answer) {
  const same = place.mode === 'same';
  const found = same ? answer.matches : answer.results;
  const heading = same
    ? `${count(found.length, 'picture')} in ${collection.name}, surest first`
    : `Nearest of ${count(collection.images, 'picture')} in ${collection.name}`;
  paintFrame(place, { asked: true, heading: found.length ? heading : '', title: subject.name });
  at('asked').textContent = same ? 'The same as this' : 'Like this';
  paintSubject(subject);
  at('facts').textContent = `${count(collection.images, 'picture')} · answered in ${Math.max(1, Math.round(answer.took_ms))} ms`;
  if (found.length) {
    announce(`${heading}. The first: ${found[0].id}`);
  } else if (same) {
    const chance = oneIn(answer.false_match_rate);
    notice(`No copies in ${collection.name}.`, `Nothing is close enough to be the same picture. The bar: of different pictures, at most ${chance} would pass for a copy.`);
    announce(at('notice').textContent);
  } else {
    notice('Nothing to compare with.', `“${collection.name}” holds no other picture.`);
    announce(at('notice').textContent);
  }
  append(place, found, 0);
}

function paintSubject({ name, source, details }) {
  const image = at('query-image');
  image.hidden = false;
  at('query-unseen').hidden = true;
  image.onerror = () => {
    image.hidden = true;
    at('query-unseen').hidden = false;
  };
  image.src = source;
  image.alt = `The picture asked about: ${name}`;
  at('query-name').textContent = name;
  at('query-details').textContent = details.filter(Boolean).join(' · ');
}

function append(place, found, offset) {
  const same = place.mode === 'same';
  at('pictures').append(...found.map((each) => (same ? copied(place, each) : listed(place, each, caption(each.id, each.score), each.score))));
  arrange(at('pictures'));
  const more = at('more');
  more.hidden = same || found.length < PAGE;
  more.onclick = async () => {
    const { signal } = asking;
    more.disabled = true;
    failed(more, null);
    try {
      const { results } = await ask(place, offset + PAGE);
      await loaded(results);
      if (signal.aborted) return; // another place is shown by now
      const next = at('pictures').children.length;
      append(place, results, offset + PAGE);
      at('pictures').children[next]?.querySelector('a').focus({ preventScroll: true });
      announce(`${count(results.length, 'more picture')}`);
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof Failure)) throw error;
      failed(more, error);
      announce(`${error.message} ${error.detail}`);
    } finally {
      more.disabled = false;
    }
  };
}

/** A picture of the list that leads to its own neighbours. */
function listed(place, image, words, score) {
  const target = { collection: place.collection, id: image.id, mode: place.mode };
  return entry(image, address(target), (picture) => go(target, { from: picture }), words, score);
}

/** A copy, which a person may know to be none. */
function copied(place, match) {
  const item = listed(place, match, copyCaption(match));
  if (place.id && !CERTAIN[match.tier]) {
    item.append(doubt(match, async (verdict) => {
      await request(`${collectionPath(place.collection)}/verdicts`, {
        method: 'PUT',
        headers: { 'Content-Type': 'application/json' },
        body: JSON.stringify({ ids: [place.id, match.id], verdict }),
      });
      announce(verdict === 'different' ? `${match.id} will not be called a copy of this again.` : `${match.id} is a copy again.`);
    }, announce));
  }
  return item;
}

function notice(lead, detail, code = null) {
  const box = at('notice');
  box.replaceChildren(make('p', { className: 'lead' }, lead), make('p', {}, detail));
  if (code) box.append(make('p', {}, make('code', {}, code)));
  box.hidden = false;
}

function announce(text) {
  at('status').textContent = text;
}

// --- ways in ----------------------------------------------------------------------------------

function take(files) {
  const file = files[0];
  if (!file) return;
  const upload = `${performance.timeOrigin}/${uploads.size}`; // never that of a page before
  uploads.set(upload, { file, url: URL.createObjectURL(file) });
  const { collection, mode } = here();
  go({ collection, upload, mode });
}

for (const button of document.querySelectorAll('[data-pick]')) {
  button.addEventListener('click', () => at('file').click());
}
at('file').addEventListener('change', (event) => {
  take(event.target.files);
  event.target.value = ''; // the same file again is a change again
});

document.addEventListener('paste', (event) => {
  if (event.clipboardData.files.length) {
    event.preventDefault();
    take(event.clipboardData.files);
  }
});

let ownDrag = false; // a picture of this page that is dragged about is not a drop
document.addEventListener('dragstart', () => { ownDrag = true; });
document.addEventListener('dragend', () => { ownDrag = false; });
document.addEventListener('dragover', (event) => {
  event.preventDefault();
  document.body.classList.toggle('over', !ownDrag);
});
document.addEventListener('dragleave', (event) => {
  if (!event.relatedTarget) document.body.classList.remove('over');
});
document.addEventListener('drop', (event) => {
  event.preventDefault();
  document.body.classList.remove('over');
  if (ownDrag) return;
  if (event.dataTransfer.files.length) take(event.dataTransfer.files);
  else paintNotice(here(), 'That was not a file.', 'Save the picture first, or copy it and paste it here.');
});

at('collection').addEventListener('change', (event) => go({ collection: event.target.value, mode: here().mode }, { focus: false }));
for (const radio of document.querySelectorAll('input[name=mode]')) {
  radio.addEventListener('change', () => go({ ...here(), mode: radio.value }, { focus: false }));
}
document.querySelector('[data-home]').addEventListener('click', (event) => {
  if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  go({ collection: collectionOf(here())?.name });
});

// --- begin ------------------------------------------------------------------------------------

new ResizeObserver(() => arrange(at('pictures'))).observe(at('results'));
history.scrollRestoration = 'manual';
addEventListener('scrollend', () => history.replaceState({ ...history.state, scroll: scrollY }, ''));
addEventListener('popstate', (event) => show({ scroll: event.state?.scroll ?? 0 }));
await show({ scroll: history.state?.scroll ?? 0 });
