// Elements and words.

export function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export const count = (number, one, many = `${one}s`) => `${(number ?? 0).toLocaleString('en')} ${number === 1 ? one : many}`;
export const oneIn = (rate) => (rate >= 1 ? 'all' : `1 in ${Math.round(1 / rate).toLocaleString('en')}`);
export const label = (image) => (typeof image.metadata?.label === 'string' ? image.metadata.label : '');
export const bytes = (size) => (size < 1e6 ? `${Math.max(1, Math.round(size / 1e3))} kB` : `${(size / 1e6).toFixed(1)} MB`);
