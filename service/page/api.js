// The API, and what its problems mean in plain words.

export class Failure extends Error {
  constructor(lead, detail) {
    super(lead);
    this.detail = detail;
  }
}

const LEADS = {
  'too-large': 'That picture is too large.',
  'unknown-format': 'That is not a picture that can be read here.',
  'unreadable-image': 'That picture is damaged.',
  overloaded: 'Very busy just now.',
  'image-not-found': 'That picture is not here any more.',
  'original-not-found': 'The original of that picture is gone.',
  'collection-not-found': 'There is no such collection.',
  'encoder-mismatch': 'This collection was made with another encoder.',
  'collection-corrupt': 'This collection cannot be read.',
};

const DETAILS = {
  'unknown-format': 'It has to be a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF file; HEIC where Kindred was installed with it.',
  'image-not-found': 'It was removed, or never was in this collection.',
  'collection-corrupt': 'Its files are damaged, or of a newer version of Kindred. The log of the service says more.',
};

export async function request(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Failure('Kindred is not answering.', 'Is it still running, and is this machine connected to it?');
  }
  if (response.ok) return response.status === 204 ? null : response.json();
  const problem = await response.json().catch(() => ({}));
  const kind = String(problem.type ?? '').split('#')[1];
  const lead = LEADS[kind] ?? `${problem.title ?? `Error ${response.status}`}.`;
  throw new Failure(lead, DETAILS[kind] ?? sentence(problem.detail ?? ''));
}

export const collectionPath = (name) => `v1/collections/${encodeURIComponent(name)}`;
export const imagePath = (name, id) => `${collectionPath(name)}/images/${encodeURIComponent(id)}`;

/** What is wrong, for a place that cannot be shown. */
export function noCollection(name) {
  return new Failure(LEADS['collection-not-found'], `Nothing is called “${name}” here.`);
}

export function damaged() {
  return new Failure(LEADS['collection-corrupt'], DETAILS['collection-corrupt']);
}

export function otherEncoder(reason) {
  return new Failure(
    LEADS['encoder-mismatch'],
    `${sentence(reason ?? '')} Index its pictures into a new collection, or start Kindred with the encoder that made this one.`,
  );
}

function sentence(text) {
  const begun = text.charAt(0).toUpperCase() + text.slice(1);
  return !begun || /[.!?]$/.test(begun) ? begun : `${begun}.`;
}
